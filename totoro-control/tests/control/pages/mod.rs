//! The page for people, as a program sees it. What people see is in `browser`.

mod browser;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::support::{Answer, Control, Node, answer, quiet};

/// What a page may weigh, bytes.
const WEIGHT: usize = 100 * 1000;

/// A node that anyone may use, with more in its description.
async fn public(control: &Control, name: &str, more: Value) -> Node {
    let mut said = json!({ "visibility": "public" });
    said.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    control.enrolled(name, said).await
}

/// The same, serving.
async fn serving(control: &Control, name: &str, more: Value) -> Node {
    let node = public(control, name, more).await;
    node.come_up(control).await;
    node
}

/// So many nodes that say as much as nodes do and never reported.
async fn many(control: &Control, count: usize) {
    let made = (0..count).map(|number| async move {
        let new = json!({
            "name": format!("tunnel-node-{number:04}"), "visibility": "public",
            "server_addr": [format!("node-{number:04}.tunnels.example.org:7000")],
            "pool": { "tcp": ["20000-20099"], "udp": ["20000-20099"] },
            "region": format!("region-{}", number % 20), "isp": format!("Carrier {}", number % 7),
            "tags": ["ipv6", "game"], "abuse_contact": "abuse@tunnels.example.org",
        });
        control
            .post("/admin/nodes", &control.admin, new)
            .await
            .with(201);
    });
    stream::iter(made)
        .buffer_unordered(32)
        .collect::<Vec<()>>()
        .await;
}

async fn page(control: &Control, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = control.http.get(format!("{}/{query}", control.api));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

/// The form, sent.
async fn send(control: &Control, lang: &str, field: &str, value: &str) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair(field, value)
        .finish();
    let request = control.http.post(format!("{}/?lang={lang}", control.api));
    let kind = "application/x-www-form-urlencoded";
    answer(request.header("content-type", kind).body(form)).await
}

#[tokio::test]
async fn it_is_there_where_the_operator_wants_it_and_loads_nothing() {
    let mut control = Control::start();
    let none = page(&control, "", &[]).await;
    assert_eq!(none.status, 200);
    assert!(
        none.text.contains("There is no public node here"),
        "{}",
        none.text
    );
    let policy = none.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(none.headers["cache-control"], "no-store");
    assert_eq!(none.headers["referrer-policy"], "no-referrer");
    for foreign in [
        "style=\"", "src=", "http://", "https://", "@import", "url(", "onclick",
    ] {
        assert!(!none.text.contains(foreign), "{foreign}");
    }

    let admin = control.with_admin_address();
    assert_eq!(answer(control.http.get(&admin)).await.status, 404);
    assert_eq!(page(&control, "", &[]).await.status, 200);
    control.reconfigure(&[("page = true", "page = false")]);
    page(&control, "", &[]).await.refused(404, "not_found");
    send(&control, "en", "code", "x")
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn the_language_is_the_persons() {
    let control = Control::start();
    for (query, header, lang) in [
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"),
        ("", "de", "en"),
        ("?lang=en", "zh", "en"),
        ("?lang=zh", "en", "zh-Hans"),
        ("?lang=%ff%00&lang=x", "zh", "zh-Hans"),
    ] {
        let page = page(&control, query, &[("accept-language", header)]).await;
        assert!(
            page.text.contains(&format!("<html lang=\"{lang}\">")),
            "{query} {header}"
        );
    }
}

/// What nodes say of themselves is text, wherever it stands.
#[tokio::test]
async fn what_nodes_say_cannot_become_page() {
    let control = Control::start();
    let evil = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'";
    let said = json!({
        "region": evil, "isp": evil, "tags": ["<b>bold</b>"], "abuse_contact": "\u{202e}<i>gro",
    });
    serving(&control, "n1", said).await;
    let query = form_urlencoded::Serializer::new("?".to_owned())
        .append_pair("region", evil)
        .finish();
    for query in ["", &query] {
        let page = page(&control, query, &[]).await;
        for markup in ["<script>alert", "<img", "<b>bold", "<i>gro", "</style><"] {
            assert!(!page.text.contains(markup), "{markup}");
        }
        assert!(page.text.contains("&#60;img src=x onerror"), "it is shown");
    }
}

#[tokio::test]
async fn a_code_shows_what_it_is_good_for_and_is_kept_nowhere() {
    let control = Control::start();
    let node = serving(&control, "n1", json!({})).await;
    let (_, code) = control
        .invite(&node, json!({ "limits": { "max_conns": 37 } }))
        .await;
    for (lang, says) in [("en", "You can use the node"), ("zh", "你可以使用节点")] {
        let page = send(&control, lang, "code", &code.to_lowercase()).await;
        assert_eq!(page.status, 200, "{}", page.text);
        for text in [
            says,
            "n1",
            "192.0.2.1:7000",
            "<dd>37</dd>",
            &code,
            "frpc -c frpc.toml",
        ] {
            assert!(page.text.contains(text), "{text}");
        }
        assert_eq!(page.headers["cache-control"], "no-store");
        assert!(
            page.text
                .contains("totoro --control http://127.0.0.1:1 tcp 8080\n")
                || page
                    .text
                    .contains("totoro --control http://127.0.0.1:1 tcp 8080<")
        );
    }
    let symbols = code.replace('-', "");
    for text in [control.log(), format!("{:?}", control.audit("").await)] {
        let text = text.replace('-', "").to_uppercase();
        assert!(
            !text.contains(&symbols.to_uppercase()[3..]),
            "the code is in a log"
        );
    }
    assert!(
        control
            .kinds("")
            .await
            .contains(&"invite.resolved".to_owned())
    );
}

#[tokio::test]
async fn a_public_node_is_used_without_a_code() {
    let control = Control::start();
    let node = serving(&control, "n1", json!({})).await;
    let page = send(&control, "en", "node", &node.id).await;
    assert_eq!(page.status, 200, "{}", page.text);
    for text in [
        "tcp 8080 --node n1",
        "You can use the node",
        &format!("public:{}", node.id),
    ] {
        assert!(page.text.contains(text), "{text}");
    }
    assert_eq!(send(&control, "en", "node", "n-nowhere").await.status, 404);
}

#[tokio::test]
async fn a_refusal_says_what_it_is_and_what_to_do() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control.invite(&node, json!({})).await;
    control
        .patch(
            &format!("/nodes/invites/{id}"),
            &node.key,
            json!({ "state": "paused" }),
        )
        .await
        .with(200);
    let mut wrong = code.clone().into_bytes();
    wrong[4] = if wrong[4] == b'0' { b'1' } else { b'0' };
    let wrong = String::from_utf8(wrong).unwrap();
    let long = "x".repeat(1024 * 1024);
    for (field, value, status, says) in [
        ("code", code.as_str(), 403, "invite_paused"),
        ("code", &wrong, 404, "typing error"),
        ("code", "<b>hello</b>", 404, "invite_unknown"),
        ("code", &long, 413, "request_too_large"),
        ("code", "", 400, "request_malformed"),
        ("other", "x", 400, "request_malformed"),
    ] {
        let page = send(&control, "en", field, value).await;
        assert_eq!(page.status, status, "{}", page.text);
        assert!(page.text.contains(says), "{says}: {}", page.text);
        assert!(
            page.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/html")
        );
        assert!(page.text.len() < WEIGHT, "what came does not come back");
        let same = send(&control, "zh", field, value).await;
        assert_eq!(same.status, status);
        assert!(!same.text.contains("typing error; ") && same.text.contains("邀请码"));
    }
}

#[tokio::test]
async fn who_guesses_or_asks_too_often_is_held_up() {
    let env = [
        quiet(),
        ("TOTORO_CONTROL_RATE_WRONG_CODE", "3".to_owned()),
        ("TOTORO_CONTROL_RATE_PUBLIC", "5".to_owned()),
    ];
    let control = Control::over(Control::init(&[]), &env);
    let code = "tn1-0000-0000-0000-0000-0000-0";
    for _ in 0..4 {
        assert_eq!(send(&control, "en", "code", code).await.status, 404);
    }
    let held = send(&control, "en", "code", code).await;
    assert_eq!(held.status, 429);
    assert!(held.headers.contains_key("retry-after"));
    let mut last = page(&control, "", &[]).await;
    for _ in 0..5 {
        last = page(&control, "", &[]).await;
    }
    assert_eq!(last.status, 429);
    assert!(
        last.text.contains("The list cannot be shown now"),
        "{}",
        last.text
    );
}

#[tokio::test]
async fn a_thousand_nodes_are_light_pages() {
    let control = Control::over(Control::init(&[]), &[quiet()]);
    many(&control, 1000).await;
    let mut heaviest = 0;
    for query in ["", "?page=20", "?page=999999", "?sort=name&lang=zh&page=7"] {
        let page = page(&control, query, &[]).await;
        assert_eq!(
            page.text.matches("<tr role=\"row\">").count(),
            51,
            "{query}"
        );
        heaviest = heaviest.max(page.text.len());
    }
    println!("{heaviest} bytes at most");
    assert!(heaviest < WEIGHT, "{heaviest}");
    let some = page(&control, "?region=region-3&sort=name", &[]).await;
    let at = |name: &str| some.text.find(name);
    assert!(at("tunnel-node-0003").unwrap() < at("tunnel-node-0983").unwrap());
    assert_eq!(at("tunnel-node-0004"), None);
}
