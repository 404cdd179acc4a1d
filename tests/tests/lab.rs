//! The lab itself: however it ends, nothing of it stays.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use totoro_tests::lab::{self, Lab, NODE_CLIENT_V4, NODE_USER_V4, Options, Place, Tools};

/// A lab's name, of this run and `name`.
fn tag(name: &str) -> String {
    format!("{}-{name}", lab::run_tag())
}

/// A lab of this run.
fn raise(tools: &Tools, name: &str) -> (Lab, String) {
    let (tag, keep) = (tag(name), false);
    let options = Options {
        tag: tag.clone(),
        keep,
    };
    let lab = Lab::raise(tools.clone(), options).expect("raise");
    (lab, tag)
}

/// What of a lab is there outside of its directory.
fn left(tag: &str) -> Vec<PathBuf> {
    let namespaces = ["node", "client", "user"]
        .map(|machine| PathBuf::from(format!("/run/netns/totoro-{tag}-{machine}")));
    namespaces
        .into_iter()
        .chain([pins(tag), cgroup(tag)])
        .chain([PathBuf::from(format!("/run/totoro-{tag}"))])
        .filter(|path| path.exists())
        .collect()
}

fn pins(tag: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/totoro-{tag}"))
}

/// Labs have theirs at the root of the hierarchy.
fn cgroup(tag: &str) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let mount = mount.and_then(|line| line.split(' ').nth(1));
    Path::new(mount.expect("cgroup v2")).join(format!("totoro-{tag}"))
}

/// `totoro-lab demo ARGS`, with a lab of that name.
fn demo(tag: &str, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_totoro-lab"))
        .arg("demo")
        .args(args)
        .env("TOTORO_TEST_TAG", tag)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("totoro-lab starts")
}

/// Ends a demo by a signal as soon as `path` is there: nothing stays, and the exit code tells.
fn ended_by(signal: Signal, tag: &str, path: &Path) {
    let child = demo(tag, &[]);
    let begun = Instant::now();
    while !path.exists() {
        let patient = begun.elapsed() < Duration::from_secs(20);
        assert!(patient, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(child.id() as i32), signal).expect("signal");
    let output = child.wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(left(tag), Vec::<PathBuf>::new(), "{said}");
    assert_eq!(
        output.status.code(),
        Some(128 + signal as i32),
        "{:?}: {said}",
        output.status.signal()
    );
    assert!(said.contains(&format!("lab {tag} is down")), "{said}");
}

#[test]
fn a_signal_while_the_lab_is_raised_leaves_nothing() {
    if lab::skip("a_signal_while_the_lab_is_raised_leaves_nothing").is_none() {
        return;
    }
    // Early, in the middle, and at the last thing that is made.
    for (name, signal, sign) in [
        ("sig1", Signal::SIGINT, "/run/totoro-TAG"),
        ("sig2", Signal::SIGTERM, "/run/netns/totoro-TAG-node"),
        ("sig3", Signal::SIGINT, "/run/netns/totoro-TAG-user"),
    ] {
        let tag = tag(name);
        ended_by(signal, &tag, Path::new(&sign.replace("TAG", &tag)));
    }
    let tag = tag("sig4");
    ended_by(Signal::SIGTERM, &tag, &cgroup(&tag).join("other"));
}

#[test]
fn a_signal_while_the_story_is_played_leaves_nothing() {
    let Some(tools) = lab::skip("a_signal_while_the_story_is_played_leaves_nothing") else {
        return;
    };
    // The daemon is about to pin; then everything runs.
    let first = tag("mid1");
    ended_by(Signal::SIGINT, &first, &pins(&first));
    let second = tag("mid2");
    let frpc = tools.labs.join(&second).join("frpc.log");
    ended_by(Signal::SIGTERM, &second, &frpc);
}

#[test]
fn a_failed_set_up_leaves_nothing() {
    if lab::skip("a_failed_set_up_leaves_nothing").is_none() {
        return;
    }
    let tag = tag("fail");
    // What is made last can't be made.
    std::fs::create_dir(cgroup(&tag)).expect("a cgroup in the way");
    let output = demo(&tag, &["--keep"]).wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("create cgroup"), "{said}");
    assert_eq!(left(&tag), Vec::<PathBuf>::new(), "{said}");
}

#[test]
fn a_kept_lab_has_its_file_and_goes_down_by_name() {
    let Some(tools) = lab::skip("a_kept_lab_has_its_file_and_goes_down_by_name") else {
        return;
    };
    let tag = tag("kept");
    let output = demo(&tag, &["--keep", "--items", "1"])
        .wait_with_output()
        .expect("wait");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(left(&tag).len(), 6, "{said}");
    let path = tools.demo.join(format!("lab-{tag}.env"));
    let env = std::fs::read_to_string(&path).expect("lab.env");
    for name in ["TOTORO_API", "TOTORO_TOKEN_FILE", "LAB_NS_USER", "FRPC"] {
        assert!(env.contains(&format!("{name}='")), "{env}");
    }
    // Its processes live on without us, the services behind frpc among them.
    let lives = |place: &str| {
        std::fs::read_to_string(cgroup(&tag).join(place).join("cgroup.procs"))
            .is_ok_and(|pids| !pids.is_empty())
    };
    assert!(lives("node") && lives("other"));
    let again = demo(&tag, &[]).wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains(&format!("demo down {tag}")), "{said}");

    let down = demo(&tag, &["down", &tag])
        .wait_with_output()
        .expect("wait");
    assert!(down.status.success(), "{:?}", down);
    assert_eq!(left(&tag), Vec::<PathBuf>::new());
    assert!(!path.exists(), "the file stays");
}

#[test]
fn a_panic_leaves_nothing() {
    let Some(tools) = lab::skip("a_panic_leaves_nothing") else {
        return;
    };
    let (lab, tag) = raise(&tools, "p");
    assert_eq!(
        left(&tag).len(),
        5,
        "three namespaces, a cgroup and the sockets' directory"
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
    assert_eq!(left(&tag), Vec::<PathBuf>::new());
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
    drop(one);
    assert_eq!(left(&one_tag), Vec::<PathBuf>::new());
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

#[test]
fn a_frozen_lab_stands_still_and_goes_down() {
    let Some(tools) = lab::skip("frozen") else {
        return;
    };
    let (lab, tag) = raise(&tools, "frozen");
    let count = lab.file("count");
    let mut command = lab.command("sh");
    let script = "while :; do echo >> \"$0\"; sleep 0.01; done";
    command.args(["-c", script]).arg(&count);
    let _counts = lab.start(Place::Node, "counts", command).expect("start");
    let length = || std::fs::metadata(&count).map_or(0, |meta| meta.len());
    let goes_on = |from: u64| {
        let begun = Instant::now();
        while length() <= from {
            assert!(begun.elapsed() < Duration::from_secs(10), "it goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    goes_on(0);
    lab.freeze(true).expect("freeze");
    let still = length();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), still, "it is frozen");
    // Not a child that nobody ever hears of.
    let refused = lab.run(Place::Node, lab.command("true"));
    assert!(refused.is_err_and(|error| error.to_string().contains("frozen")));
    lab.freeze(false).expect("go on");
    goes_on(still);
    lab.run(Place::Node, lab.command("true")).expect("it runs");
    lab.freeze(true).expect("freeze again");
    drop(lab);
    assert_eq!(left(&tag), Vec::<PathBuf>::new());
}
