//! What does not fit: odd paths, queries and methods, and for every call that takes a body, bodies
//! that are none. Each gets a clear answer, costs little, and changes nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use futures_util::stream;
use reqwest::Method;
use serde_json::{Value, json};

use crate::callback::Frps;
use crate::support::{Answer, Control, PATIENCE, answer, quiet};

/// Sends a request line as it is, which clients would put right; the status and the answer.
fn raw(control: &Control, line: &[u8], headers: &str) -> (u16, String) {
    let address = control.api.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(line).unwrap();
    let rest = format!(" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(rest.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    (status.parse().unwrap_or(0), answer)
}

#[tokio::test]
async fn odd_paths_queries_and_methods() {
    let control = Control::start();
    let node = control.node("n1").await;
    let key = format!("authorization: Bearer {}\r\n", node.key);
    let many = "&x=1".repeat(4000);
    let long = "a".repeat(20_000);
    let longer = "a".repeat(40_000);
    let invite = |id: &str| format!("GET /api/v1/nodes/invites/{id}");
    let list = |query: &str| format!("GET /api/v1/nodes/invites?{query}");
    let mut cases = vec![
        ("GET /api/v1/nodes/self".to_owned(), 200, ""),
        ("GET /api/v1/nodes/self/".to_owned(), 200, ""),
        ("GET /api/v1/nodes/self?".to_owned(), 200, ""),
        (
            "GET http://elsewhere.example/api/v1/nodes/self".to_owned(),
            200,
            "",
        ),
        ("GET /api/v1//nodes/self".to_owned(), 404, "not_found"),
        ("GET //api/v1/nodes/self".to_owned(), 404, "not_found"),
        ("GET /api/v1/nodes/./self".to_owned(), 404, "not_found"),
        (
            "GET /api/v1/public/../nodes/self".to_owned(),
            404,
            "not_found",
        ),
        ("GET /api/v1/nodes/sel%66".to_owned(), 404, "not_found"),
        ("get /api/v1/nodes/self".to_owned(), 405, "unsupported"),
        ("BREW /api/v1/nodes/self".to_owned(), 405, "unsupported"),
        ("OPTIONS *".to_owned(), 404, "not_found"),
        (list(&format!("label={long}")), 200, ""),
        (list(&many[1..]), 400, "request_malformed"),
        (list("limit=%ff"), 400, "request_malformed"),
        (list("limit=%00"), 400, "request_malformed"),
        (list("limit="), 400, "request_malformed"),
        (list("limit=1&limit=1"), 400, "request_malformed"),
        (
            list("limit=9999999999999999999999"),
            400,
            "request_malformed",
        ),
        (list("%6cimit=1"), 200, ""),
        // The head does not fit: that is HTTP's to say.
        (list(&format!("label={longer}")), 431, ""),
        (invite(&longer), 431, ""),
    ];
    for id in [
        "%2e%2e", "%2F", "%00", "%ff%fe", "%", "%zz", "..", "x%0d%0ay", "*", &long,
    ] {
        cases.push((invite(id), 404, "not_found"));
    }
    for (line, status, code) in cases {
        let (came, text) = raw(&control, line.as_bytes(), &key);
        let shown: String = line.chars().take(80).collect();
        assert_eq!(came, status, "{shown}: {text:.300}");
        assert!(
            text.contains(&format!("\"code\":\"{code}\"")) || code.is_empty(),
            "{shown}"
        );
    }
    // Bytes that are no text, in the path and in headers.
    let (status, _) = raw(&control, b"GET /api/v1/nodes/invites/\xff\xfe", &key);
    assert!((400..500).contains(&status), "{status}");
    let wild = format!("{key}if-match: \u{ff}\r\n");
    let (status, _) = raw(&control, b"DELETE /api/v1/nodes/invites/inv-1", &wild);
    assert_eq!(status, 400);
}

/// A call that takes a body, as its description says.
struct Taking {
    method: String,
    path: String,
    limit: usize,
}

async fn calls_with_bodies(control: &Control) -> Vec<Taking> {
    let document = control.get("/openapi.json", "").await.with(200);
    let mut calls = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        // A page says what is wrong as a page: see `pages`.
        if path == "/" {
            continue;
        }
        for (method, call) in methods.as_object().unwrap() {
            let Some(said) = call["requestBody"]["description"].as_str() else {
                continue;
            };
            let kib = said.split(' ').find_map(|word| word.parse::<usize>().ok());
            calls.push(Taking {
                method: method.to_uppercase(),
                path: path.clone(),
                limit: kib.unwrap() * 1024,
            });
        }
    }
    assert!(calls.len() >= 20, "{}", calls.len());
    calls
}

/// A request as the call's caller would send it.
fn request(control: &Control, keys: &Keys, call: &Taking) -> reqwest::RequestBuilder {
    let path = call.path.replace("{id}", &keys.id_for(&call.path));
    let method = Method::from_bytes(call.method.as_bytes()).unwrap();
    let url = format!("{}{path}", control.api);
    let request = control.http.request(method, url).header("if-match", "*");
    match call.path.as_str() {
        path if path.contains("/admin/") => request.bearer_auth(&control.admin),
        path if path.contains("/frps/") => request.basic_auth(&keys.frps.0, Some(&keys.frps.1)),
        path if path.contains("/oauth/") => request,
        _ => request.bearer_auth(&keys.node.1),
    }
}

/// Ids and keys of a node, of a frps without a daemon, and an invite's id.
struct Keys {
    node: (String, String),
    frps: (String, String),
    invite: String,
}

impl Keys {
    async fn new(control: &Control) -> Self {
        let node = control.node("n1").await;
        let frps = Frps::new(control, "n2", json!({})).await.node;
        let (invite, _) = control.invite(&node, json!({})).await;
        Keys {
            node: (node.id, node.key),
            frps: (frps.id, frps.key),
            invite,
        }
    }

    fn id_for(&self, path: &str) -> String {
        match path.contains("/invites/") {
            true => self.invite.clone(),
            false => self.node.0.clone(),
        }
    }
}

/// Refused as malformed or as too large, in the form of the call's protocol.
#[track_caller]
fn refused(call: &Taking, answer: &Answer, status: u16) {
    let (method, path) = (&call.method, &call.path);
    let body = &answer.body;
    if path.contains("/frps/") {
        assert_eq!(
            (answer.status.as_u16(), &body["reject"]),
            (200, &json!(true)),
            "{path}"
        );
        let code = if status == 413 {
            "request_too_large"
        } else {
            "request_malformed"
        };
        let why = body["reject_reason"].as_str().unwrap();
        // An op that is in the address alone is none that is served.
        let other = status == 400 && why.starts_with("totoro[unsupported]: ");
        assert!(
            why.starts_with(&format!("totoro[{code}]: ")) || other,
            "{path}: {why}"
        );
        return;
    }
    assert_eq!(
        answer.status.as_u16(),
        status,
        "{method} {path}: {}",
        answer.text
    );
    if path.contains("/oauth/") {
        assert_eq!(body["error"], "invalid_request", "{path}: {}", answer.text);
        return;
    }
    let code = if status == 413 {
        "request_too_large"
    } else {
        "request_malformed"
    };
    assert_eq!(body["code"], code, "{method} {path}: {}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn every_body_that_is_none() {
    let control = Control::over(Control::init(&[]), &[quiet()]);
    let keys = Keys::new(&control).await;
    let nested = |open: &str, close: &str| {
        format!("{{\"x\":{}{}}}", open.repeat(5000), close.repeat(5000)).into_bytes()
    };
    let bodies = [
        b"".to_vec(),
        b" ".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"1e999".to_vec(),
        b"{\"x\":\"\xff\xfe\"}".to_vec(),
        b"{\"\\ud800\":1}".to_vec(),
        b"{}{}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
    ];
    for call in calls_with_bodies(&control).await {
        for body in &bodies {
            let came = answer(request(&control, &keys, &call).body(body.clone())).await;
            refused(&call, &came, 400);
        }
        for kind in [
            "text/plain",
            "application/xml",
            "multipart/form-data; boundary=x",
            "\u{1F}",
        ] {
            // Whatever a body says it is, it is read as what the call takes.
            let request = request(&control, &keys, &call).body("--x");
            let request = match reqwest::header::HeaderValue::from_bytes(kind.as_bytes()) {
                Ok(kind) => request.header("content-type", kind),
                Err(_) => request,
            };
            refused(&call, &answer(request).await, 400);
        }
        // Where programs send what is unknown here it is skipped, however deep: no stack grows.
        for body in [nested("[", "]"), nested("{\"x\":", "}")] {
            let came = answer(request(&control, &keys, &call).body(body)).await;
            let refused = came.status.is_client_error() || came.body["reject"] == true;
            assert!(refused, "{}: {}", call.path, came.text);
        }
        let large = vec![b' '; call.limit + 1];
        let came = answer(request(&control, &keys, &call).body(large)).await;
        refused(&call, &came, 413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_take_no_memory() {
    let control = Control::over(Control::init(&[]), &[quiet()]);
    let keys = Keys::new(&control).await;
    let before = control.peak_kib();
    // 64 at once, of 16 MiB each, without a length: a gigabyte, if it were held.
    let call = Taking {
        method: "POST".to_owned(),
        path: "/api/v1/nodes/invites".to_owned(),
        limit: 0,
    };
    let sends = (0..64).map(|_| {
        let parts = (0..256).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
        let body = reqwest::Body::wrap_stream(stream::iter(parts));
        request(&control, &keys, &call).body(body).send()
    });
    let sent = futures_util::future::join_all(sends).await;
    // Who sends on after the answer may find the connection closed.
    for came in sent.into_iter().flatten() {
        assert_eq!(came.status(), 413);
    }
    let grown = control.peak_kib() - before;
    println!("64 bodies of 16 MiB took {grown} KiB");
    assert!(grown < 96 * 1024, "{grown} KiB");
    let page: Value = control.get("/nodes/invites", &keys.node.1).await.with(200);
    assert_eq!(
        page["items"].as_array().unwrap().len(),
        1,
        "nothing was made"
    );
}
