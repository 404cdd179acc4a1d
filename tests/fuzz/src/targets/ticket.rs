//! Tickets: whoever can reach frps may send any text for one.

use std::sync::LazyLock;

use totoro_api::Reason;
use totoro_api::limits::Limits;
use totoro_api::ticket::{Claims, Grant, Keys, MAX_LEN, Revision, SigningKey, sign, verify};
use totoro_api::wire::push::TicketKey;

use crate::Target;
use crate::parts::Parts;

/// Any text in place of a ticket.
pub(crate) const TOKEN: Target = Target {
    name: "ticket",
    run: token,
    seeds: tokens,
};

/// A real ticket with some of its bytes changed, or another footer.
pub(crate) const EDITED: Target = Target {
    name: "ticket-edited",
    run: edited,
    seeds: edits,
};

const NODE: &str = "nod_a";
const NOW: i64 = 1_700_000_000;

/// A key that everybody may know: it signs for tests alone. Its two halves belong together.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\
                        d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let byte = |at: usize| u8::from_str_radix(&SEED[2 * at..2 * at + 2], 16).expect("hex");
    let bytes: Vec<u8> = (0..64).map(byte).collect();
    SigningKey::from_bytes(&bytes).expect("RFC 8032's first key")
});

static REAL: LazyLock<String> =
    LazyLock::new(|| sign(&KEY, &claims(Grant::Invite("inv_1".to_owned()))));

fn claims(grant: Grant) -> Claims {
    Claims {
        jti: "00112233445566778899aabbccddeeff".to_owned(),
        node: NODE.to_owned(),
        grant,
        subject: "198.51.100.7".to_owned(),
        epoch: 3,
        limits: Limits {
            max_conns: Some(5),
            ports: "20000-20009".parse().ok(),
            ..Limits::default()
        },
        revision: Revision {
            generation: 7,
            rev: 42,
        },
        iat: NOW,
        exp: NOW + 3600,
        session_until: NOW + 86_400,
    }
}

fn keys() -> Keys {
    let key = TicketKey {
        kid: KEY.kid().to_owned(),
        public: KEY.public(),
        not_before: NOW - 1000,
        expires: NOW + 100_000,
    };
    vec![key].into()
}

fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let read = verify(text, NODE, &keys(), NOW);
    let elsewhere = verify(text, "nod_b", &keys(), NOW);
    assert!(
        read.is_err() || elsewhere.is_err(),
        "a ticket is for one node"
    );
    match read {
        // Ed25519 signs the same for the same: what verifies is, to the byte, what we would sign.
        Ok(read) => assert_eq!(sign(&KEY, &read.claims), text),
        Err(refusal) => {
            let known = [
                Reason::TicketMissing,
                Reason::TicketMalformed,
                Reason::TicketWrongNode,
                Reason::TicketKeyUnknown,
                Reason::TicketForged,
            ];
            assert!(known.contains(&refusal.reason), "{refusal}");
            assert_eq!(refusal.reason == Reason::TicketMissing, text.is_empty());
            if text.len() > MAX_LEN {
                assert_eq!(refusal.reason, Reason::TicketMalformed);
            }
        }
    }
}

/// The first byte says how many of its edits there are: a place and a byte each. What follows becomes
/// the footer, where there is any.
fn edited(data: &[u8]) {
    let mut parts = Parts(data);
    let mut bytes = REAL.clone().into_bytes();
    for _ in 0..parts.byte() % 8 {
        let place = usize::from(parts.byte()) | usize::from(parts.byte()) << 8;
        let byte = parts.byte();
        match bytes.len() {
            0 => {}
            length => bytes[place % length] = byte,
        }
    }
    if !parts.is_empty() {
        let end = bytes.iter().rposition(|&byte| byte == b'.').unwrap_or(0);
        bytes.truncate(end);
        bytes.push(b'.');
        bytes.extend_from_slice(parts.0);
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return;
    };
    let read = verify(&text, NODE, &keys(), NOW);
    assert_eq!(read.is_ok(), text == *REAL, "{text}");
}

fn tokens() -> Vec<Vec<u8>> {
    let public = sign(&KEY, &claims(Grant::Public(true)));
    let other = Claims {
        node: "nod_b".to_owned(),
        ..claims(Grant::Public(true))
    };
    let late = Claims {
        iat: NOW - 10_000,
        ..claims(Grant::Public(true))
    };
    let tokens = [
        REAL.clone(),
        public,
        sign(&KEY, &other),
        sign(&KEY, &late),
        "v4.public.AAAA".to_owned(),
    ];
    tokens.map(String::into_bytes).into()
}

fn edits() -> Vec<Vec<u8>> {
    let footer = REAL.rsplit('.').next().unwrap_or_default();
    let same = [&[0], footer.as_bytes()].concat();
    vec![
        vec![0],
        vec![1, 20, 0, b'A'],
        vec![2, 11, 0, b'.', 255, 1, b'_'],
        same,
    ]
}
