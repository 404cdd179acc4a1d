use super::*;
use crate::limits::Limits;
use proptest::prelude::*;

fn body(json: serde_json::Value) -> NewProxy {
    serde_json::from_value(json).unwrap()
}

fn reason_of(json: serde_json::Value) -> Result<Asked, Reason> {
    let limits = Limits::default().over(&Limits::default());
    read_proxy(&body(json), "inv_a", &limits).map_err(|refusal| refusal.reason)
}

#[test]
fn what_may_be_asked_for() {
    let read = reason_of(serde_json::json!({
        "proxy_name": "inv_a.web", "proxy_type": "udp", "remote_port": 20001,
        "use_encryption": true, "group": "", "group_key": "",
    }));
    let asked = Asked {
        name: "web".to_owned(),
        protocol: Protocol::Udp,
        port: Some(20001),
    };
    assert_eq!(read, Ok(asked));
    for (json, reason) in [
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"stcp"}"#,
            Reason::ProxyTypeDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":""}"#,
            Reason::ProxyTypeDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"TCP"}"#,
            Reason::ProxyTypeDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"tcp","group":"g"}"#,
            Reason::ProxyOptionDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"tcp","group_key":"g"}"#,
            Reason::ProxyOptionDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"tcp","bandwidth_limit_mode":"server"}"#,
            Reason::ProxyOptionDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"tcp","remote_port":-1}"#,
            Reason::RequestMalformed,
        ),
        (
            r#"{"proxy_name":"inv_a.w","proxy_type":"tcp","remote_port":65536}"#,
            Reason::RequestMalformed,
        ),
        (
            r#"{"proxy_name":"web","proxy_type":"tcp"}"#,
            Reason::ProxyNameDenied,
        ),
        (
            r#"{"proxy_name":"inv_b.web","proxy_type":"tcp"}"#,
            Reason::ProxyNameDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.","proxy_type":"tcp"}"#,
            Reason::ProxyNameDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.a/b","proxy_type":"tcp"}"#,
            Reason::ProxyNameDenied,
        ),
        (
            r#"{"proxy_name":"inv_a.a.b","proxy_type":"tcp"}"#,
            Reason::ProxyNameDenied,
        ),
    ] {
        assert_eq!(
            reason_of(serde_json::from_str(json).unwrap()),
            Err(reason),
            "{json}"
        );
    }
}

#[test]
fn whose_prefix_a_user_may_take() {
    let denied = |user: &str, must| user_denied(user, must, |name| name == "inv_b").is_some();
    assert!(!denied("inv_a", Some("inv_a")));
    assert!(denied("", Some("inv_a")) && denied("inv_b", Some("inv_a")));
    assert!(!denied("", None) && !denied("me", None));
    assert!(denied("inv_b", None) && denied("a.b", None) && denied(&"x".repeat(65), None));
}

fn outcome(
    port: Option<u16>,
    last: Option<u16>,
    ports: Option<&str>,
    held: impl Fn(u16) -> Held,
) -> Result<u16, Reason> {
    let limits = Limits {
        ports: ports.map(|text| text.parse().unwrap()),
        ..Limits::default()
    }
    .over(&Limits::default());
    let pool = Pool {
        tcp: "20000-20009".parse().unwrap(),
        ..Pool::default()
    };
    let asked = Asked {
        name: "web".to_owned(),
        protocol: Protocol::Tcp,
        port,
    };
    let choice = Choice {
        asked: &asked,
        limits: &limits,
        pool: &pool,
        last,
        start: 3,
    };
    let avoid = |port| match port {
        20003 => Some(Avoided::Open),
        20008 => Some(Avoided::Named),
        _ => None,
    };
    choose_port(choice, held, avoid).map_err(|refusal| refusal.reason)
}

#[test]
fn a_port_by_name() {
    let free = |_| Held::Free;
    assert_eq!(outcome(Some(20001), None, None, free), Ok(20001));
    assert_eq!(
        outcome(Some(22), None, None, free),
        Err(Reason::PortOutsidePool)
    );
    let range = Some("20000-20001");
    assert_eq!(
        outcome(Some(20002), None, range, free),
        Err(Reason::PortDenied)
    );
    for (held, outcome_) in [
        (Held::Kept, Ok(20001)),
        (Held::Sibling, Ok(20001)),
        (Held::Leased, Err(Reason::PortInUse)),
        (Held::Cooling, Err(Reason::PortCooling)),
    ] {
        assert_eq!(outcome(Some(20001), None, None, |_| held), outcome_);
    }
}

#[test]
fn any_port() {
    let free = |_| Held::Free;
    assert_eq!(
        outcome(None, Some(20007), None, free),
        Ok(20007),
        "the last one"
    );
    assert_eq!(
        outcome(None, None, None, free),
        Ok(20004),
        "20003 is to be avoided"
    );
    for kept in [Held::Free, Held::Kept] {
        let held = |port| if port == 20008 { kept } else { Held::Free };
        assert_eq!(
            outcome(None, Some(20008), None, held),
            Ok(20008),
            "the last one, though another invite names it since"
        );
        let held = |port| if port == 20003 { kept } else { Held::Free };
        assert_eq!(
            outcome(None, Some(20003), None, held),
            Ok(20004),
            "not even the last one, where frps has it open"
        );
        let held = |port| match port {
            20003 => kept,
            _ => Held::Sibling,
        };
        assert_eq!(
            outcome(None, Some(20003), None, held),
            Ok(20003),
            "unless nothing else is free"
        );
    }
    let only_avoided = |port| {
        if port == 20003 {
            Held::Free
        } else {
            Held::Leased
        }
    };
    assert_eq!(
        outcome(None, None, None, only_avoided),
        Ok(20003),
        "unless nothing else is"
    );
    assert_eq!(
        outcome(None, None, None, |_| Held::Leased),
        Err(Reason::PoolExhausted)
    );
    assert_eq!(
        outcome(None, None, None, |_| Held::Cooling),
        Err(Reason::PoolExhausted)
    );
    assert_eq!(
        outcome(None, None, Some("20100"), free),
        Err(Reason::PoolExhausted)
    );
}

proptest! {
    #[test]
    fn what_is_chosen_is_lent_allowed_and_free(
        taken in proptest::collection::btree_set(20000u16..20010, 0..11),
        last in proptest::option::of(19990u16..20020),
        first in 20000u16..20010,
    ) {
        let held = |port| if taken.contains(&port) { Held::Leased } else { Held::Free };
        let range = format!("{first}-20009");
        match outcome(None, last, Some(&range), held) {
            Ok(port) => prop_assert!((first..=20009).contains(&port) && !taken.contains(&port)),
            Err(reason) => {
                prop_assert_eq!(reason, Reason::PoolExhausted);
                prop_assert!((first..=20009).all(|port| taken.contains(&port)));
            }
        }
    }
}
