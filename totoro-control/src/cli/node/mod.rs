//! `node …`.

mod change;
mod show;

use clap::{Args, Subcommand};
use reqwest::Method;
use totoro_api::limits::Limits;
use totoro_api::ports::{Pool, PortSet};
use totoro_api::wire::node::{NewNode, Node, NodeCreated, NodePage, Visibility};
use totoro_cli::print_json;

use self::change::Change;
use self::show::{print_node, print_table, show_created};
use super::client::{Client, in_path, with_query};
use super::frps::{EnrollCallback, FrpsConfig};
use super::limits::json;
use super::{CliError, Remote};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control node add --name n1 --pool-tcp 20000-20099 --pool-udp 20000-20099 \\
      --server-addr n1.example.org:7000 --public --public-limits '{\"max_conns\": 20}'
  totoro-control node list
  totoro-control node change n-4k2v9x0c7m1p --draining true
  totoro-control node delete n-4k2v9x0c7m1p
  totoro-control node enroll-callback n1 --key-file ./n1.key
  totoro-control node frps-config n1 --key-file ./n1.key --control https://control.example.org")]
pub(super) struct NodeCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a node; prints its one-time enrolment token.
    #[command(after_help = "\
Examples:
  totoro-control node add --name n1 --pool-tcp 20000-20099 --server-addr n1.example.org:7000
  totoro-control node add --name n2 --pool-tcp 20000-20099 --pool-udp 20000-20099 \\
      --server-addr n2.example.org:7000 --server-addr '[2001:db8::2]:7000' --json")]
    Add(Box<Add>),
    /// List nodes.
    #[command(after_help = "\
Examples:
  totoro-control node list
  totoro-control node list --json")]
    List,
    /// Show one, by id or name.
    #[command(after_help = "\
Examples:
  totoro-control node show n1")]
    Show {
        /// Its id or name.
        node: String,
    },
    /// Change one; what is not given stays.
    #[command(after_help = "\
Examples:
  totoro-control node change n1 --draining true            before a reboot: nothing new comes
  totoro-control node change n1 --pool-tcp 20000-20199
  totoro-control node change n1 --defaults '{\"max_conns\": 20}'
  totoro-control node change n1 --region eu-west --isp Example --tags fast,ipv6")]
    Change(Box<Change>),
    /// Remove one and revoke its invites. Its machine is told nothing any more: to cut what lives,
    /// disable the node first, and wait until it has applied that.
    #[command(after_help = "\
Examples:
  totoro-control node change n1 --disabled true            cut what lives first
  totoro-control node delete n1")]
    Delete {
        /// Its id or name.
        node: String,
    },
    /// A new enrolment token: for another machine, or when the key was lost.
    #[command(after_help = "\
Examples:
  totoro-control node token n1
  totoro-control node token n1 --json")]
    Token {
        /// Its id or name.
        node: String,
    },
    /// Enrol one without our daemon: makes its key, for a stock frps that asks the control plane.
    #[command(after_help = "\
Examples:
  totoro-control node enroll-callback n1 --key-file ./n1.key
  totoro-control node enroll-callback n1 --key-file ./new.key --replace    its key was lost")]
    EnrollCallback(EnrollCallback),
    /// Print what the frps of such a node needs: two [[httpPlugins]] blocks.
    #[command(after_help = "\
Examples:
  totoro-control node frps-config n1 --key-file ./n1.key --control https://control.example.org >> frps.toml")]
    FrpsConfig(FrpsConfig),
}

#[derive(Args)]
struct Add {
    /// Its name, unique: letters, digits and -.
    #[arg(long)]
    name: String,
    /// TCP ports to lend, e.g. 20000-20099,20200.
    #[arg(long, value_name = "PORTS", default_value = "")]
    pool_tcp: PortSet,
    /// UDP ports to lend.
    #[arg(long, value_name = "PORTS", default_value = "")]
    pool_udp: PortSet,
    /// Where clients reach frps, host:port; may be given several times.
    #[arg(long, value_name = "HOST:PORT", required = true)]
    server_addr: Vec<String>,
    /// Anyone may connect, within the public limits.
    #[arg(long)]
    public: bool,
    /// What one anonymous tenant gets.
    #[arg(long, value_name = "JSON")]
    public_limits: Option<String>,
    /// Ceilings of all anonymous tenants together.
    #[arg(long, value_name = "JSON")]
    public_max: Option<String>,
    /// What an invite that says nothing gets.
    #[arg(long, value_name = "JSON")]
    defaults: Option<String>,
    /// Where it stands.
    #[arg(long, default_value = "")]
    region: String,
    /// Whose network it is in.
    #[arg(long, default_value = "")]
    isp: String,
    /// Free words.
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
    /// Whom an abused or banned person may write to.
    #[arg(long, default_value = "")]
    abuse_contact: String,
}

impl NodeCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        match self.action {
            Action::Add(add) => {
                let new = add.into_new()?;
                let made: NodeCreated = client.post("/admin/nodes", &new, &[]).await?;
                show_created(&made, as_json)
            }
            Action::Token { node } => {
                let id = show(&client, &node).await?.id;
                let path = format!("/admin/nodes/{id}/token");
                let made: NodeCreated = client.post(&path, &(), &[]).await?;
                show_created(&made, as_json)
            }
            Action::Delete { node } => {
                let seen = show(&client, &node).await?;
                let path = format!("/admin/nodes/{}", seen.id);
                client.delete_version(&path, seen.version).await
            }
            Action::EnrollCallback(enroll) => enroll.run(&client, as_json).await,
            Action::FrpsConfig(config) => config.run(&client, &self.remote.api).await,
            Action::List => {
                let mut all = NodePage::default();
                let mut cursor = None;
                loop {
                    let path = with_query("/admin/nodes", &[("cursor", cursor)]);
                    let page: NodePage = client.get(&path).await?;
                    all.items.extend(page.items);
                    match page.next {
                        Some(next) => cursor = Some(next),
                        None => break,
                    }
                }
                if as_json {
                    Ok(print_json(&all)?)
                } else {
                    print_table(&all.items)
                }
            }
            Action::Show { node } => print_node(&show(&client, &node).await?, as_json),
            Action::Change(change) => {
                let id = show(&client, &change.node).await?.id;
                let path = format!("/admin/nodes/{id}");
                let changed = client
                    .update(
                        (Method::PATCH, &path, &path),
                        |node: &Node| node.version,
                        |node| change.to_change(node).map(Some),
                    )
                    .await?;
                print_node(&changed, as_json)
            }
        }
    }
}

/// One, by id or name: a name leads to where it is shown, and only the id to where it is changed.
async fn show(client: &Client, node: &str) -> Result<Node, CliError> {
    let path = format!("/admin/nodes/{}", in_path(node)?);
    client.get(&path).await
}

impl Add {
    fn into_new(self) -> Result<NewNode, CliError> {
        let limits = |flag: &str, text: Option<&str>| match text {
            Some(text) => json::<Limits>(flag, text),
            None => Ok(Limits::default()),
        };
        let public_max = self
            .public_max
            .as_deref()
            .map(|text| json("--public-max", text));
        Ok(NewNode {
            visibility: if self.public {
                Visibility::Public
            } else {
                Visibility::Private
            },
            defaults: limits("--defaults", self.defaults.as_deref())?,
            public_limits: limits("--public-limits", self.public_limits.as_deref())?,
            public_max: public_max.transpose()?.unwrap_or_default(),
            name: self.name,
            server_addr: self.server_addr,
            pool: Pool {
                tcp: self.pool_tcp,
                udp: self.pool_udp,
            },
            region: self.region,
            isp: self.isp,
            tags: self.tags,
            abuse_contact: self.abuse_contact,
        })
    }
}
