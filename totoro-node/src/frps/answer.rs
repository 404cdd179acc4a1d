//! frps's list of its proxies, read while it comes: with tens of thousands of them it is tens of MiB long.

use std::borrow::Cow;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use totoro_api::ports::Protocol;

use crate::session::Proxied;

/// The longest list, bytes: of as many proxies as there are ports, each as long as it can be.
const MOST: u64 = 1 << 30;
/// The longest value in it, bytes: frp's messages have 10 KiB at most, of which frps may escape each one.
const LONGEST: usize = 256 << 10;

/// One of the list.
#[derive(Debug, Deserialize)]
pub struct Proxy<'a> {
    name: String,
    #[serde(default, borrow)]
    status: Cow<'a, str>,
    /// Absent for one that is offline.
    conf: Option<Conf>,
    #[serde(default, rename = "clientID")]
    client: String,
}

#[derive(Debug, Deserialize)]
struct Conf {
    #[serde(default, rename = "remotePort")]
    remote_port: u16,
}

impl Proxy<'_> {
    /// Its name, its port and whose it is, while it is online.
    #[must_use]
    pub fn online(self, protocol: Protocol) -> Option<(String, Proxied)> {
        let port = self.conf.map_or(0, |conf| conf.remote_port);
        let proxied = Proxied {
            port: (protocol, port),
            client: self.client,
        };
        (self.status == "online").then_some((self.name, proxied))
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Object,
    /// A member's name; or the object's end, where it would be the first.
    Name {
        first: bool,
    },
    Colon {
        ours: bool,
    },
    /// The value of a member that we do not know.
    Value,
    List,
    /// A proxy; or the list's end, where it would be the first.
    Proxy {
        first: bool,
    },
    /// Another proxy, or the list's end.
    Proxies,
    /// Another member, or the object's end.
    Members,
    Nothing,
}

/// An answer, as far as it has come.
#[derive(Debug)]
pub struct Answer {
    protocol: Protocol,
    next: Next,
    /// What came and could not be read yet: no more than one value.
    left: Vec<u8>,
    /// How much was read, bytes.
    read: u64,
    /// The list was there.
    listed: bool,
}

impl Answer {
    /// Of the proxies of a protocol; nothing has come yet.
    #[must_use]
    pub const fn new(protocol: Protocol) -> Answer {
        Answer {
            protocol,
            next: Next::Object,
            left: Vec::new(),
            read: 0,
            listed: false,
        }
    }

    /// Takes the next bytes; the proxies that are online among those that end in them, with their names.
    ///
    /// # Errors
    /// It is no list of proxies, or too long; where that shows.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<(String, Proxied)>> {
        let mut all = std::mem::take(&mut self.left);
        all.extend_from_slice(bytes);
        let (mut from, mut online) = (0, Vec::new());
        while let Some(length) = self.step(&all[from..], &mut online)? {
            from += length;
            self.read += length as u64;
            ensure!(self.read <= MOST, "it is longer than {MOST} bytes");
        }
        all.drain(..from);
        ensure!(
            all.len() <= LONGEST,
            "a value of more than {LONGEST} bytes after {} bytes",
            self.read
        );
        self.left = all;
        Ok(online)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// It broke off, or had no list.
    pub fn end(self) -> Result<()> {
        let whole = matches!(self.next, Next::Nothing);
        ensure!(whole, "it breaks off after {} bytes", self.read);
        // An empty list would end every lease.
        ensure!(self.listed, "it has no `proxies`");
        Ok(())
    }

    /// Reads one token, or one value; how many bytes those were. `None` = it has not come whole.
    fn step(&mut self, rest: &[u8], online: &mut Vec<(String, Proxied)>) -> Result<Option<usize>> {
        let Some(&byte) = rest.first() else {
            return Ok(None);
        };
        let mut length = 1;
        self.next = match (self.next, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => self.next,
            (Next::Object, b'{') => Next::Name { first: true },
            (Next::Name { first: true } | Next::Members, b'}') => Next::Nothing,
            (Next::Members, b',') => Next::Name { first: false },
            (Next::Colon { ours: true }, b':') => Next::List,
            (Next::Colon { ours: false }, b':') => Next::Value,
            (Next::List, b'[') => Next::Proxy { first: true },
            (Next::Proxies, b',') => Next::Proxy { first: false },
            (Next::Proxy { first: true } | Next::Proxies, b']') => {
                self.listed = true;
                Next::Members
            }
            (Next::Name { .. } | Next::Value | Next::Proxy { .. }, _) => {
                let next = self.value(rest, online);
                let Some((next, end)) =
                    next.with_context(|| format!("what comes after {} bytes", self.read))?
                else {
                    return Ok(None);
                };
                length = end;
                next
            }
            _ => bail!(
                "an unexpected `{}` after {} bytes",
                byte.escape_ascii(),
                self.read
            ),
        };
        Ok(Some(length))
    }

    /// Reads one value; what comes next, and where it ends.
    fn value(
        &self,
        rest: &[u8],
        online: &mut Vec<(String, Proxied)>,
    ) -> serde_json::Result<Option<(Next, usize)>> {
        Ok(match self.next {
            Next::Name { .. } => whole::<Cow<'_, str>>(rest)?.map(|(name, end)| {
                let ours = name == "proxies";
                (Next::Colon { ours }, end)
            }),
            Next::Proxy { .. } => whole::<Proxy<'_>>(rest)?.map(|(proxy, end)| {
                online.extend(proxy.online(self.protocol));
                (Next::Proxies, end)
            }),
            _ => whole::<IgnoredAny>(rest)?.map(|(_, end)| (Next::Members, end)),
        })
    }
}

/// A value that `bytes` begin with, and where it ends. `None` = it may go on with what comes: something
/// comes behind each value of an object or a list.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<Option<(T, usize)>> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter();
    match values.next() {
        Some(Err(error)) if !at_end(&error, bytes) => Err(error),
        Some(Ok(value)) if values.byte_offset() < bytes.len() => {
            Ok(Some((value, values.byte_offset())))
        }
        _ => Ok(None),
    }
}

/// Whether an error is of the last byte, or of what is missing behind it. (Not all of those are called so: a
/// `-` without a digit is an invalid number.)
fn at_end(error: &serde_json::Error, bytes: &[u8]) -> bool {
    let mut lines = bytes.rsplit(|byte| *byte == b'\n');
    let last = lines.next().map_or(0, <[u8]>::len);
    error.line() == lines.count() + 1 && error.column() >= last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As frps 0.70.1 answers; and what may be added one day.
    const ANSWER: &str = r#"{"total":-12.5e+1,"more":{"proxies":[{"\u0061":[null,true]}]},"proxies":[{"name":"inv.a","conf":{"name":"inv.a","type":"tcp","transport":{"bandwidthLimit":"","bandwidthLimitMode":"client"},"loadBalancer":{"group":""},"healthCheck":{"type":"","intervalSeconds":0},"localIP":"127.0.0.1","plugin":null,"remotePort":20001},"user":"inv","clientID":"r1","todayTrafficIn":1,"todayTrafficOut":0,"curConns":-1,"lastStartTime":"11-30 13:33:04","lastCloseTime":"","status":"online"},
        {"name":"inv.b","conf":null,"user":"inv","clientID":"r1","todayTrafficIn":0,"todayTrafficOut":0,"curConns":0,"lastStartTime":"11-30 13:33:04","lastCloseTime":"11-30 13:33:12","status":"offline"} , {"status":"\u006fnline","name":"ä\"<\u003c"}],"at":7}
"#;

    fn proxied(port: u16, client: &str) -> Proxied {
        Proxied {
            port: (Protocol::Tcp, port),
            client: client.to_owned(),
        }
    }

    /// The whole of an answer that comes in these pieces.
    fn read<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<(String, Proxied)>, String> {
        let mut answer = Answer::new(Protocol::Tcp);
        let mut online = Vec::new();
        let read = pieces
            .into_iter()
            .try_for_each(|piece| answer.take(piece).map(|found| online.extend(found)));
        let ended = read.and_then(|()| answer.end());
        ended.map_err(|error: anyhow::Error| format!("{error:#}"))?;
        Ok(online)
    }

    fn error(text: &str) -> String {
        read([text.as_bytes()]).unwrap_err()
    }

    #[test]
    fn the_ports_of_proxies_that_are_online_are_read() {
        let online = [
            ("inv.a".to_owned(), proxied(20_001, "r1")),
            ("ä\"<<".to_owned(), proxied(0, "")),
        ];
        assert_eq!(read([ANSWER.as_bytes()]).unwrap(), online);
        assert_eq!(read(ANSWER.as_bytes().chunks(1)).unwrap(), online);
        assert_eq!(read([br#"{"proxies":[]}"#.as_slice()]).unwrap(), []);
    }

    #[test]
    fn one_that_breaks_off_is_refused_wherever_it_does() {
        for end in 0..ANSWER.trim_end().len() {
            let error = read([&ANSWER.as_bytes()[..end]]).unwrap_err();
            assert!(error.starts_with("it breaks off after "), "{end}: {error}");
        }
    }

    #[test]
    fn what_is_no_list_of_proxies_is_refused_and_its_place_told() {
        let unexpected = [
            ("[]", "`[` after 0"),
            ("<html>", "`<` after 0"),
            (r#"{"proxies":null}"#, "`n` after 11"),
            (r#"{"proxies":[],}"#, "`}` after 14"),
            (r#"{"proxies":[]}x"#, "`x` after 14"),
            (r#"{"proxies" []}"#, "`[` after 11"),
        ];
        for (text, at) in &unexpected[..3] {
            assert_eq!(error(text), format!("an unexpected {at} bytes"), "{text}");
        }
        for (text, _) in &unexpected {
            assert!(read([text.as_bytes()]).is_err(), "{text}");
        }
        assert_eq!(error("{}"), "it has no `proxies`");
        let item = |item: &str| error(&format!(r#"{{"proxies":[{item}]}}"#));
        let of = [
            ("7", "invalid type: integer `7`, expected struct Proxy"),
            (r#"{"conf":null}"#, "missing field `name`"),
            (
                r#"{"name":7}"#,
                "invalid type: integer `7`, expected a string",
            ),
            (
                r#"{"name":"","status":true}"#,
                "invalid type: boolean `true`, expected a string",
            ),
            (
                r#"{"name":"","conf":{"remotePort":65536}}"#,
                "invalid value: integer `65536`, expected u16",
            ),
            (r#"{"name":"",}"#, "trailing comma"),
            ("]", "unexpected"),
        ];
        for (text, why) in of {
            let error = item(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(item("7").starts_with("what comes after 12 bytes: "));
    }

    #[test]
    fn a_value_may_be_long_but_not_endless() {
        let long = |length: usize| {
            let name = "x".repeat(length);
            let text = format!(r#"{{"proxies":[{{"name":"{name}","status":"online"}}]}}"#);
            read(text.as_bytes().chunks(10_000)).map(|online| online[0].0.len())
        };
        assert_eq!(long(200_000), Ok(200_000));
        let too_long = "a value of more than 262144 bytes after 12 bytes";
        assert_eq!(long(LONGEST + 10_000).unwrap_err(), too_long);
        let deep = "[".repeat(200_000);
        assert!(error(&format!(r#"{{"x":{deep}"#)).starts_with("it breaks off "));
    }

    #[test]
    fn an_answer_may_be_long_but_not_endless() {
        let mut answer = Answer::new(Protocol::Tcp);
        answer.read = MOST - 20;
        let taken = answer.take(br#"{"proxies":[          ]}"#);
        assert_eq!(
            taken.unwrap_err().to_string(),
            "it is longer than 1073741824 bytes"
        );
    }

    proptest! {
        #[test]
        fn where_it_is_cut_changes_nothing(cuts in prop::collection::vec(0..ANSWER.len(), 0..9)) {
            let mut cuts = cuts;
            cuts.extend([0, ANSWER.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &ANSWER.as_bytes()[cut[0]..cut[1]]);
            prop_assert_eq!(read(pieces), read([ANSWER.as_bytes()]));
        }
    }
}
