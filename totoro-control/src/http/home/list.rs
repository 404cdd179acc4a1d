//! The list of public nodes: what of it a visitor wants to see, and in which order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use totoro_api::limits::{Effective, Limits};
use totoro_api::wire::node::{NodeState, PublicNode};
use totoro_web::Lang;

use super::lang_of;
use crate::http::incoming::Incoming;

/// Nodes on one page: about 52 KB, of the 100 KB that a page may weigh.
const ON_A_PAGE: usize = 50;
/// Regions and networks to choose from, the most frequent ones.
const CHOICES: usize = 50;

/// What a visitor asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) lang: Lang,
    region: String,
    isp: String,
    sort: Sort,
    page: usize,
}

/// Orders of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    /// What serves, then what is least busy.
    #[default]
    Best,
    Load,
    Ports,
    Name,
}

impl Sort {
    const EACH: [Sort; 4] = [Sort::Best, Sort::Load, Sort::Ports, Sort::Name];

    const fn as_str(self) -> &'static str {
        match self {
            Sort::Best => "",
            Sort::Load => "load",
            Sort::Ports => "ports",
            Sort::Name => "name",
        }
    }

    const fn says(self, lang: Lang) -> &'static str {
        match self {
            Sort::Best => totoro_web::say(lang, "best first", "综合最佳"),
            Sort::Load => totoro_web::say(lang, "least load", "负载最低"),
            Sort::Ports => totoro_web::say(lang, "most free ports", "空闲端口最多"),
            Sort::Name => totoro_web::say(lang, "name", "名称"),
        }
    }
}

impl Wanted {
    /// What a query says. A page is looked at by people, who come with all kinds of links: what cannot
    /// be read says nothing.
    pub(super) fn of(incoming: &Incoming) -> Self {
        let mut query = incoming.query().ok();
        let mut take = |name: &str| query.as_mut().and_then(|query| query.take(name));
        let sort = take("sort").unwrap_or_default();
        let sort = Sort::EACH.into_iter().find(|known| known.as_str() == sort);
        Wanted {
            lang: lang_of(incoming, take("lang").as_deref()),
            region: take("region").unwrap_or_default(),
            isp: take("isp").unwrap_or_default(),
            sort: sort.unwrap_or_default(),
            page: take("page").and_then(|page| page.parse().ok()).unwrap_or(1),
        }
    }

    /// The same as a query, but for the language and the page.
    pub(super) fn query(&self) -> [(&'static str, &str); 3] {
        [
            ("region", &self.region),
            ("isp", &self.isp),
            ("sort", self.sort.as_str()),
        ]
    }

    fn link(&self, page: usize) -> String {
        let [region, isp, sort] = self.query();
        let page = page.to_string();
        totoro_web::link(self.lang, "", &[region, isp, sort, ("page", &page)])
    }
}

/// One of several, of which one is chosen.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) text: String,
    pub(super) chosen: bool,
}

/// One page of the list.
pub(super) struct List {
    /// All public nodes, and those of them that serve.
    pub(super) total: usize,
    pub(super) serving: usize,
    /// Those that fit what is wanted.
    pub(super) found: usize,
    pub(super) rows: Vec<Row>,
    pub(super) regions: Vec<Choice>,
    pub(super) isps: Vec<Choice>,
    pub(super) sorts: Vec<Choice>,
    /// This page, and how many there are.
    pub(super) number: usize,
    pub(super) pages: usize,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// A node.
pub(super) struct Row {
    pub(super) node: PublicNode,
    pub(super) serves: bool,
    pub(super) class: &'static str,
    pub(super) state: &'static str,
    pub(super) tcp: u32,
    pub(super) udp: u32,
    pub(super) limits: Effective,
}

/// Whether a node takes something new.
const fn serves(node: &PublicNode) -> bool {
    matches!(node.state, NodeState::Online | NodeState::Degraded)
}

impl List {
    pub(super) fn new(nodes: &[PublicNode], wanted: Wanted) -> Self {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let mut found: Vec<&PublicNode> = nodes
            .iter()
            .filter(|node| fits(&wanted.region, &node.region) && fits(&wanted.isp, &node.isp))
            .collect();
        sort(&mut found, wanted.sort);
        let pages = found.len().div_ceil(ON_A_PAGE).max(1);
        let number = wanted.page.clamp(1, pages);
        let rows = found.iter().skip((number - 1) * ON_A_PAGE).take(ON_A_PAGE);
        let count = nodes.iter().filter(|node| serves(node)).count();
        List {
            total: nodes.len(),
            serving: count,
            found: found.len(),
            rows: rows.map(|node| Row::new(node, wanted.lang)).collect(),
            regions: choices(nodes, |node| &node.region, &wanted.region),
            isps: choices(nodes, |node| &node.isp, &wanted.isp),
            sorts: Sort::EACH
                .map(|sort| Choice {
                    value: sort.as_str().to_owned(),
                    text: sort.says(wanted.lang).to_owned(),
                    chosen: sort == wanted.sort,
                })
                .into(),
            number,
            pages,
            before: (number > 1).then(|| wanted.link(number - 1)),
            after: (number < pages).then(|| wanted.link(number + 1)),
        }
    }
}

fn sort(nodes: &mut [&PublicNode], by: Sort) {
    let load = |node: &PublicNode| (node.cpu_percent * 10.0) as u32;
    let state = |node: &PublicNode| match node.state {
        NodeState::Online => 0,
        NodeState::Degraded => 1,
        _ => 2,
    };
    let key = |node: &PublicNode| match by {
        // Without a free port nothing begins.
        Sort::Best => (state(node), u32::from(node.free() == 0), load(node)),
        // What does not report has no load that is known.
        Sort::Load => (u32::from(!serves(node)), load(node), 0),
        Sort::Ports | Sort::Name => (0, 0, 0),
    };
    let ports = |node: &PublicNode| match by {
        Sort::Ports => node.free(),
        _ => 0,
    };
    nodes.sort_by(|a, b| {
        (key(a), Reverse(ports(a)), &a.name).cmp(&(key(b), Reverse(ports(b)), &b.name))
    });
}

/// What the nodes have there, the most frequent, in order; what is chosen stays choosable.
fn choices<'a>(
    nodes: &'a [PublicNode],
    of: impl Fn(&'a PublicNode) -> &'a String,
    chosen: &str,
) -> Vec<Choice> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for node in nodes {
        *counts.entry(of(node)).or_default() += 1;
    }
    counts.remove("");
    let mut frequent: Vec<(&str, usize)> = counts.into_iter().collect();
    frequent.sort_by_key(|(_, count)| Reverse(*count));
    frequent.truncate(CHOICES);
    frequent.sort_unstable();
    let choice = |(value, count): (&str, usize)| Choice {
        value: value.to_owned(),
        text: format!("{value} ({count})"),
        chosen: value == chosen,
    };
    let mut choices: Vec<Choice> = frequent.into_iter().map(choice).collect();
    if !chosen.is_empty() && !choices.iter().any(|choice| choice.chosen) {
        choices.push(Choice {
            chosen: true,
            ..choice((chosen, 0))
        });
    }
    choices
}

impl Row {
    fn new(node: &PublicNode, lang: Lang) -> Self {
        Row {
            serves: serves(node),
            class: totoro_web::class(node.state),
            state: totoro_web::state(lang, node.state),
            tcp: node.free_of("tcp"),
            udp: node.free_of("udp"),
            limits: node.public_limits.over(&Limits::default()),
            node: node.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize, state: NodeState, cpu_percent: f32, free: u32) -> PublicNode {
        let said = serde_json::json!({
            "id": format!("n-{number}"), "name": format!("n{number:04}"),
            "region": format!("r{}", number % 3), "isp": "", "tags": [], "server_addr": ["a:1"],
            "state": "online", "grade": "kernel", "unenforced": [], "free_ports": { "tcp": free },
            "public_limits": {}, "versions": {}, "cpu_percent": cpu_percent, "load1": 0.0,
            "seen_s": 0, "abuse_contact": "",
        });
        PublicNode {
            state,
            ..serde_json::from_value(said).unwrap()
        }
    }

    fn names(list: &List) -> Vec<&str> {
        list.rows.iter().map(|row| row.node.name.as_str()).collect()
    }

    #[test]
    fn what_serves_and_is_idle_comes_first() {
        let nodes = [
            node(1, NodeState::Offline, 0.0, 9),
            node(2, NodeState::Online, 90.0, 9),
            node(3, NodeState::Degraded, 1.0, 9),
            node(4, NodeState::Online, 5.0, 9),
            node(5, NodeState::Online, 1.0, 0),
        ];
        let by = |sort| {
            List::new(
                &nodes,
                Wanted {
                    sort,
                    page: 1,
                    ..Wanted::default()
                },
            )
        };
        let best = by(Sort::Best);
        assert_eq!(names(&best), ["n0004", "n0002", "n0005", "n0003", "n0001"]);
        assert_eq!((best.total, best.serving, best.found), (5, 4, 5));
        assert_eq!(names(&by(Sort::Load))[4], "n0001", "its load is not known");
        assert_eq!(names(&by(Sort::Ports))[4], "n0005");
        assert_eq!(names(&by(Sort::Name))[0], "n0001");
    }

    #[test]
    fn pages_hold_what_is_wanted_and_end() {
        let nodes: Vec<_> = (0..301)
            .map(|n| node(n, NodeState::Online, 0.0, 1))
            .collect();
        let wanted = |page| Wanted {
            region: "r1".to_owned(),
            page,
            ..Wanted::default()
        };
        let first = List::new(&nodes, wanted(0));
        assert_eq!((first.found, first.pages, first.number), (100, 2, 1));
        assert_eq!(first.before, None);
        assert_eq!(first.after.as_deref(), Some("?lang=en&region=r1&page=2"));
        let last = List::new(&nodes, wanted(usize::MAX));
        assert_eq!((last.number, last.rows.len()), (2, 50));
        assert_eq!(last.after, None);
        let none = List::new(&[], wanted(1));
        assert_eq!((none.number, none.pages, none.rows.len()), (1, 1, 0));
        assert!(
            none.regions[0].chosen,
            "a filter can be seen and taken away"
        );
    }
}
