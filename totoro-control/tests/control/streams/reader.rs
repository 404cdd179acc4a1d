//! Server-sent events as a node's daemon reads them.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Control, Node, PATIENCE};

/// A stream of a node's policy.
pub(super) struct Stream {
    response: reqwest::Response,
    read: String,
    /// All that came so far and was no event.
    pub(super) aside: Vec<String>,
}

/// One event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: Value,
}

impl Control {
    /// Opens a stream, from the event with this id.
    pub(super) async fn stream(&self, node: &Node, last: Option<&str>) -> Stream {
        let response = self.open_stream(&node.key, last).await;
        Stream::of(response)
    }

    /// The answer to one who asks for a stream.
    pub(super) async fn open_stream(&self, key: &str, last: Option<&str>) -> reqwest::Response {
        let url = format!("{}/api/v1/nodes/watch", self.api);
        let request = self.http.get(url).bearer_auth(key);
        let request = request.header("accept", "text/event-stream");
        let request = match last {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        request.send().await.unwrap()
    }
}

impl Stream {
    /// The stream of this answer.
    pub(super) fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        Stream {
            response,
            read: String::new(),
            aside: Vec::new(),
        }
    }

    pub(super) fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// The next event; `None` at the stream's end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let Some((block, rest)) = self.read.split_once("\n\n") else {
                let more = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
                // What the server cut off mid-way is an error here, and fails the test.
                let more = more.expect("neither an event nor the end").unwrap()?;
                self.read.push_str(std::str::from_utf8(&more).unwrap());
                continue;
            };
            let (block, rest) = (block.to_owned(), rest.to_owned());
            self.read = rest;
            let field = |name: &str| {
                let mut lines = block.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            };
            match field("data") {
                Some(data) => {
                    return Some(Event {
                        id: field("id").expect("an event has an id").to_owned(),
                        name: field("event").expect("an event has a name").to_owned(),
                        state: serde_json::from_str(data).unwrap(),
                    });
                }
                None => self.aside.push(block),
            }
        }
    }

    /// The next event, which must come.
    pub(super) async fn event(&mut self) -> Event {
        self.next().await.expect("the stream goes on")
    }

    /// Waits for so long; no event may come meanwhile.
    pub(super) async fn silent(&mut self, for_so_long: Duration) {
        let came = tokio::time::timeout(for_so_long, self.next()).await;
        assert!(came.is_err(), "{came:?}");
    }
}
