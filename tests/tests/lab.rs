//! The lab itself: however it ends, nothing of it stays.

use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use totoro_tests::lab::{self, Lab, NODE_CLIENT_V4, NODE_USER_V4, Options, Place, Tools};

/// A lab named after this run and `name`.
fn raise(tools: &Tools, name: &str) -> (Lab, String) {
    let run = std::env::var("TOTORO_TEST_TAG").unwrap_or_else(|_| std::process::id().to_string());
    let tag = format!("{name}{run}");
    let lab = Lab::raise(
        tools.clone(),
        Options {
            tag: tag.clone(),
            keep: false,
        },
    )
    .expect("raise");
    (lab, tag)
}

/// What of a lab is in the kernel.
fn left(tag: &str, cgroup: &Path) -> Vec<PathBuf> {
    let namespaces = ["node", "client", "user"];
    let paths =
        namespaces.map(|machine| PathBuf::from(format!("/run/netns/totoro-{tag}-{machine}")));
    let pins = PathBuf::from(format!("/sys/fs/bpf/totoro-{tag}"));
    paths
        .into_iter()
        .chain([pins, cgroup.to_owned()])
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn a_panic_leaves_nothing() {
    let Some(tools) = lab::skip("a_panic_leaves_nothing") else {
        return;
    };
    let (lab, tag) = raise(&tools, "p");
    let cgroup = lab.cgroup().to_owned();
    assert_eq!(
        left(&tag, &cgroup).len(),
        4,
        "three namespaces and a cgroup"
    );
    let mut pid = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut sleeper = lab.command("sleep");
        sleeper.arg("60");
        let mut process = lab.start(Place::Client, "sleeper", sleeper).expect("start");
        assert!(process.lives());
        pid = process.pid();
        let _its = (lab, process);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(left(&tag, &cgroup), Vec::<PathBuf>::new());
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "the child lives on"
    );
}

#[test]
fn two_labs_have_the_same_addresses_and_nothing_in_common() {
    let Some(tools) = lab::skip("two_labs_have_the_same_addresses_and_nothing_in_common") else {
        return;
    };
    let (one, one_tag) = raise(&tools, "a");
    let (two, _) = raise(&tools, "b");
    let listener = one
        .ns(Place::Node)
        .run(|| Ok(TcpListener::bind((NODE_CLIENT_V4, 7000))?))
        .expect("bind");
    let connect = |lab: &Lab| {
        lab.ns(Place::Client)
            .run(|| Ok(TcpStream::connect((NODE_CLIENT_V4, 7000))?))
    };
    connect(&one).expect("reach our own node");
    connect(&two).expect_err("reached the other lab's node");
    drop(listener);
    let cgroup = one.cgroup().to_owned();
    drop(one);
    assert_eq!(left(&one_tag, &cgroup), Vec::<PathBuf>::new());
    // The other one lives on, both its networks included.
    let listener = two
        .ns(Place::Node)
        .run(|| Ok(TcpListener::bind((NODE_USER_V4, 7001))?))
        .expect("bind");
    two.ns(Place::User)
        .run(|| Ok(TcpStream::connect((NODE_USER_V4, 7001))?))
        .expect("connect");
    drop(listener);
}
