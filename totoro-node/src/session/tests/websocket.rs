//! Logins by websocket: frps tells an origin, and the filter's stamp in it is all that counts.

use totoro_ebpf::logic::stamp;

use super::world::world;

/// As frps tells it: the stamp, and what was left of the origin.
fn told(cookie: u64) -> String {
    let text = stamp::text(stamp::of(cookie, 0));
    format!("{}.example:7000", std::str::from_utf8(&text).unwrap())
}

#[test]
fn a_login_comes_from_the_connection_whose_stamp_it_bears() {
    let world = world();
    let (first, second) = ("192.0.2.1:1", "[2001:db8::2]:2");
    world.kernel.connect(first.parse().unwrap(), 1, 0);
    world.kernel.connect(second.parse().unwrap(), 2, 0);
    for (address, client) in [
        (told(1), Some(first)),
        (told(2), Some(second)),
        // Any other client's address is frps's own word.
        ("198.51.100.7:7".to_owned(), Some("198.51.100.7:7")),
        // Nobody's stamp, and what clients say of themselves.
        (told(3), None),
        ("http://192.0.2.1:1".to_owned(), None),
        ("//192.0.2.1:1".to_owned(), None),
        ("t:".to_owned(), None),
        (String::new(), None),
    ] {
        let is = world.desk.client(&address).unwrap();
        assert_eq!(
            is,
            client.map(|client| client.parse().unwrap()),
            "{address}"
        );
    }
    world.hang_up(2);
    assert_eq!(world.desk.client(&told(2)), Ok(None), "it has ended");
    world
        .kernel
        .maps()
        .failing
        .insert("stamped_control".to_owned());
    assert_eq!(world.desk.client(&told(1)), Ok(None), "it can't be told");
}
