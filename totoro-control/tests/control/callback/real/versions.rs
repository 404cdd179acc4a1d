//! Every frpc that is promised: the oldest, one in between and the newest, with each way to bring a
//! ticket. docs/callback.md has the table.

use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use serde_json::{Value, json};

use super::program::{Program, tools};
use super::{PORTS, Proxy, World, missing, pasted, service, tcp};

/// A release of frpc.
struct Release {
    tool: &'static str,
    version: &'static str,
    /// Whether it reads a ticket from a file (`auth.oidc.tokenSource`).
    token_file: bool,
    /// Whether its file can name the control plane's authority (`auth.oidc.trustedCaFile`).
    trusted_ca: bool,
}

const RELEASES: [Release; 3] = [
    Release {
        tool: "frpc-v0_61",
        version: "0.61.0",
        token_file: false,
        trusted_ca: false,
    },
    Release {
        tool: "frpc-v0_65",
        version: "0.65.0",
        token_file: false,
        trusted_ca: true,
    },
    Release {
        tool: "frpc",
        version: "0.70.1",
        token_file: true,
        trusted_ca: true,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_frpc_gets_in_by_each_way_it_knows() {
    let tools = RELEASES.map(|release| release.tool);
    if missing(&["frps"]) || missing(&tools) {
        return;
    }
    let (world, local, port) = (World::new().await, service(), Cell::new(PORTS.start));
    for release in RELEASES {
        let try_it = Try {
            world: &world,
            release,
            local,
            port: &port,
        };
        try_it.its_version();
        try_it.pasted_file().await;
        try_it.pasted_command().await;
        try_it.refusals().await;
        try_it.public().await;
        try_it.metadata().await;
        try_it.token_file().await;
        try_it.trusted_ca().await;
    }
}

/// One release's turn.
struct Try<'a> {
    world: &'a World,
    release: Release,
    local: u16,
    /// The next port that nobody has had: one that somebody had cools down.
    port: &'a Cell<u16>,
}

impl Try<'_> {
    fn its_version(&self) {
        let tool = tools().join(self.release.tool);
        let said = Command::new(tool).arg("--version").output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.trim(), self.release.version);
    }

    fn frpc(&self, way: &str, file: &str) -> Program {
        let name = format!("{}-{way}", self.release.tool);
        let world = self.world;
        Program::start(world.dir(), self.release.tool, &name, file, &world.ca)
    }

    fn proxy(&self, name: &'static str) -> Proxy {
        let port = self.port.get();
        self.port.set(port + 1);
        tcp(name, self.local, port)
    }

    /// Runs this file with a proxy, which must become a tunnel.
    async fn tunnels(&self, way: &str, file: &str) {
        let proxy = self.proxy("web");
        let frpc = self.frpc(way, &pasted(file, &[proxy]));
        frpc.wait_for("web] start proxy success");
        assert_eq!(self.world.visit(proxy.remote), "hello\n", "{way}");
    }

    /// The file of `invites/resolve` as it is, with the code as the OAuth client secret.
    async fn pasted_file(&self) {
        let invite = self.invite().await;
        self.tunnels("pasted", &invite.file).await;
    }

    async fn invite(&self) -> super::Invite {
        self.world
            .invite(json!({ "limits": { "max_proxies": 1 } }))
            .await
    }

    /// The one-paste command of `invites/resolve`, in a shell.
    async fn pasted_command(&self) {
        let invite = self.invite().await;
        let (world, tool) = (self.world, self.release.tool);
        let code = json!({ "code": invite.code });
        let answer = world.control.post("/invites/resolve", "", code).await;
        let command = answer.with(200)["command"].as_str().unwrap().to_owned();
        let dir = world.dir().join(format!("{tool}-home"));
        std::fs::create_dir(&dir).unwrap();
        symlink(tools().join(tool), dir.join("frpc")).unwrap();
        let mut shell = Command::new("sh");
        let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
        shell
            .arg("-c")
            .arg(command)
            .current_dir(&dir)
            .env("PATH", path);
        let frpc = Program::run(&dir, "shell", shell, &world.ca);
        frpc.wait_for("login to server success");
        let mode = std::fs::metadata(dir.join("frpc.toml")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    /// frpc prints why: a wrong code, a proxy too many.
    async fn refusals(&self) {
        let invite = self.invite().await;
        let wrong = invite
            .file
            .replace(&invite.code, "tn1-0000-0000-0000-0000-0000-0");
        assert_ne!(wrong, invite.file);
        let mut frpc = self.frpc("wrong", &pasted(&wrong, &[]));
        frpc.refusal("invite_unknown");
        frpc.ended();
        let two = ["one", "two"].map(|name| self.proxy(name));
        let frpc = self.frpc("two", &pasted(&invite.file, &two));
        frpc.refusal("max_proxies");
        frpc.wait_for("] start proxy success");
    }

    /// Without a code: the file of a public node's ticket, whose secret is `public:NODE`.
    async fn public(&self) {
        let control = &self.world.control;
        let ticket = control.post("/public/nodes/n1/ticket", "", json!({})).await;
        let ticket = ticket.with(200);
        let file = ticket["frpc_toml"].as_str().unwrap();
        assert!(file.contains("clientSecret = \"public:"), "{file}");
        self.tunnels("public", file).await;
    }

    /// A ticket by hand, as metadata: good for one session.
    async fn metadata(&self) {
        let invite = self.invite().await;
        let ticket = self.ticket(&invite).await;
        let head = format!(
            "{}auth.method = \"token\"\nmetadatas.totoro_ticket = \"{ticket}\"\n",
            self.head(&invite)
        );
        self.tunnels("metadata", &head).await;
    }

    /// A ticket in a file, which frpc reads at each login.
    async fn token_file(&self) {
        let invite = self.invite().await;
        let at = self
            .world
            .dir()
            .join(format!("{}.ticket", self.release.tool));
        std::fs::write(&at, self.ticket(&invite).await).unwrap();
        let head = format!(
            "{}auth.method = \"oidc\"\nauth.oidc.tokenSource.type = \"file\"\n\
             auth.oidc.tokenSource.file.path = {at:?}\n",
            self.head(&invite)
        );
        if self.release.token_file {
            self.tunnels("file", &head).await;
        } else {
            let mut frpc = self.frpc("file", &head);
            frpc.wait_for("tokenSource");
            frpc.ended();
        }
    }

    /// The authority of the control plane named in the file, and none in the system.
    async fn trusted_ca(&self) {
        let invite = self.invite().await;
        let world = self.world;
        let line = format!("[auth.oidc]\ntrustedCaFile = {:?}", world.ca);
        let file = invite.file.replace("[auth.oidc]", &line);
        assert_ne!(file, invite.file);
        let name = format!("{}-trusted", self.release.tool);
        let nothing = world.dir().join("nothing.pem");
        std::fs::write(&nothing, "").unwrap();
        let mut frpc = Program::start(world.dir(), self.release.tool, &name, &file, &nothing);
        if self.release.trusted_ca {
            frpc.wait_for("login to server success");
        } else {
            frpc.wait_for("trustedCaFile");
            frpc.ended();
        }
    }

    async fn ticket(&self, invite: &super::Invite) -> String {
        let token: Value = self.world.control.oauth(&invite.code).await.with(200);
        token["access_token"].as_str().unwrap().to_owned()
    }

    fn head(&self, invite: &super::Invite) -> String {
        let address = self.world.address;
        format!(
            "serverAddr = \"{address}\"\nserverPort = 7000\nuser = {:?}\n",
            invite.id
        )
    }
}
