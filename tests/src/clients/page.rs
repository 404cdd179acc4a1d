//! `totoro serve` in a person's hands: a real browser on the client's machine, the page, and what
//! becomes of it on the way to a tunnel with bytes in it. Programs get the same by the API.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use totoro_browser::Browser;

use super::{Totoro, environment};
use crate::hostile::world;
use crate::lab::{CLIENT_V4, NODE_USER_V4, Place};
use crate::net::user;
use crate::story::World;

/// Where it serves: the machine is the lab's own.
pub(super) const PAGE: &str = "http://127.0.0.1:7400";
/// Beyond loopback, too, when told.
const EVERYWHERE: &str = "0.0.0.0:7400";

/// Plays it.
///
/// # Errors
/// The lab does not come up, or a check failed.
pub fn play() -> Result<()> {
    let world = world("cl-page", &[])?;
    let (totoro, _) = serve(&world, "cl-page-1", &[])?;
    on_its_machine(&world, async |browser| {
        looks(browser).await.context("looks")?;
        by_a_code(&world, browser).await.context("by a code")?;
        refused(&world, browser).await.context("refused")?;
        by_a_node(&world, browser).await.context("by a node")
    })?;
    end(totoro)?;
    let (totoro, token) = serve(&world, "cl-page-2", &["--listen", EVERYWHERE])?;
    by_the_api(&world, &token).context("by the API")?;
    super::breaks::with_spare(&world, || {
        on_its_machine(&world, async |browser| {
            from_elsewhere(browser, &token)
                .await
                .context("from elsewhere")?;
            again(&world, browser).await.context("after a restart")
        })
    })?;
    end(totoro)
}

/// Starts it; the file with its token.
pub(super) fn serve(world: &World, name: &str, words: &[&str]) -> Result<(Totoro, PathBuf)> {
    let mut command = world.lab.command(&world.lab.tools.client);
    command
        .args(["serve", "--json"])
        .args(words)
        .envs(environment(world, None));
    let process = world.lab.start(Place::Client, name, command)?;
    let mut totoro = Totoro { process, mark: 0 };
    let serving = totoro.event("serving")?;
    let token = serving["token_file"].as_str().context("no token file")?;
    Ok((totoro, token.into()))
}

pub(super) fn end(mut totoro: Totoro) -> Result<()> {
    totoro.signal(Signal::SIGTERM)?;
    let status = totoro.process.wait_exit(super::PATIENCE)?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

/// Plays with a browser on the client's machine.
pub(super) fn on_its_machine<T: Send>(
    world: &World,
    story: impl AsyncFnOnce(&Browser) -> Result<T> + Send,
) -> Result<T> {
    world.lab.ns(Place::Client).run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let browser = Browser::start().await?;
            story(&browser).await
        })
    })
}

/// Looks at a state in both languages, on every screen; goes back to English.
async fn review(browser: &Browser, name: &str) -> Result<()> {
    for (lang, other) in [("en", "zh"), ("zh", "en")] {
        let wrong = browser.review(&format!("{name}-{lang}")).await?;
        ensure!(wrong.is_empty(), "{wrong:#?}");
        browser.click(&format!("nav a[hreflang={other}]")).await?;
    }
    Ok(())
}

/// The same of what a form has answered, which no link leads to: in one language.
async fn review_answer(browser: &Browser, name: &str) -> Result<()> {
    let wrong = browser.review(name).await?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// What blocks, beside a runtime that must not be blocked.
fn aside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.map_err(|_| anyhow::anyhow!("panicked"))?
}

async fn looks(browser: &Browser) -> Result<()> {
    browser.open(&format!("{PAGE}/?lang=en")).await?;
    review(browser, "serve-empty").await?;
    // A name that somebody pointed at this machine.
    let by_name = PAGE.replace("127.0.0.1", "rebound.localhost");
    browser.open(&by_name).await?;
    let said = browser.text("body").await?;
    ensure!(said.contains("not the name of this page"), "{said}");
    browser.complaints().await.map(drop)
}

/// Types a code, and looks it up.
async fn look_up(browser: &Browser, lang: &str, code: &str) -> Result<()> {
    browser.open(&format!("{PAGE}/?lang={lang}")).await?;
    browser.type_into("#code", code).await?;
    browser.find("#code-says.good").await?;
    browser.click(".invite .line button").await
}

/// Exposes the lab's TCP service through what was looked up.
async fn expose(world: &World, browser: &Browser) -> Result<()> {
    browser.find("#given").await?;
    browser
        .type_into("input[name=local]", &world.backend.tcp.to_string())
        .await?;
    browser
        .click("form[action^='/connect'] .line button:not([type])")
        .await
}

/// The address of the tunnel that is shown, with bytes through it.
async fn address(world: &World, browser: &Browser) -> Result<u16> {
    let url = browser.shown(".address code").await?;
    let port = url.rsplit(':').next().unwrap_or_default().parse()?;
    user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, port)?)?;
    Ok(port)
}

async fn by_a_code(world: &World, browser: &Browser) -> Result<()> {
    let limits = json!({ "max_conns": 5, "max_proxies": 2, "max_clients": 1 });
    let tenant = aside(|| world.invite("page", limits))?;
    let path = format!("/nodes/invites/{}", tenant.invite.id);
    let ends = json!({ "expires_at": "2100-01-01T00:00:00Z" });
    aside(|| world.lender()?.patch::<Value>(&path, &ends))?;
    for lang in ["zh", "en"] {
        look_up(browser, lang, &tenant.code).await?;
        browser.find("#given").await?;
        let shown = browser.shown("main").await?;
        ensure!(shown.contains("2100-01-01 00:00 UTC"), "no end in {shown}");
        review_answer(browser, &format!("serve-chosen-{lang}")).await?;
    }
    let source = browser.page().source().await?;
    ensure!(!source.contains(&tenant.code), "the code is in the page");
    expose(world, browser).await?;
    address(world, browser).await?;
    let here = browser.page().current_url().await?.to_string();
    ensure!(!here.contains("tn1"), "{here}");
    review(browser, "serve-running").await?;
    browser.click("a[href^='/qr/']").await?;
    browser.find("svg").await?;
    review_answer(browser, "serve-qr-en").await?;

    // A second client is more than the invite allows: it says so, and the first goes on.
    look_up(browser, "en", &tenant.code).await?;
    expose(world, browser).await?;
    browser
        .until("return document.body.innerText.includes('max_clients')")
        .await?;
    review(browser, "serve-refused").await?;
    address(world, browser).await?;

    // Revoked in use: the page says so by itself.
    aside(|| world.lender()?.delete(&path).map(drop))?;
    browser
        .until("return document.body.innerText.includes('invite_revoked')")
        .await?;
    review(browser, "serve-revoked").await?;
    for left in [1, 0] {
        browser.click("#tunnels form button").await?;
        let gone = format!("return document.querySelectorAll('.tunnel').length === {left}");
        browser.until(&gone).await?;
    }
    Ok(())
}

async fn refused(world: &World, browser: &Browser) -> Result<()> {
    let code = totoro_api::code::InviteCode::from_entropy([9; 16]).to_string();
    for lang in ["en", "zh"] {
        look_up(browser, lang, &code).await?;
        browser.find("#refused").await?;
        review_answer(browser, &format!("serve-unknown-{lang}")).await?;
    }
    // A service that is none.
    let tenant = aside(|| world.invite("none", json!({})))?;
    look_up(browser, "en", &tenant.code).await?;
    browser.type_into("input[name=local]", "70000").await?;
    browser
        .click("form[action^='/connect'] .line button:not([type])")
        .await?;
    browser.find("#refused").await?;
    review_answer(browser, "serve-no-service-en").await
}

async fn by_a_node(world: &World, browser: &Browser) -> Result<()> {
    browser.open(&format!("{PAGE}/nodes?lang=en")).await?;
    browser.find("button[name=node]").await?;
    review(browser, "serve-nodes").await?;
    browser.click("button[name=node]").await?;
    expose(world, browser).await?;
    address(world, browser).await.map(drop)
}

/// Whoever is not this user on this machine shows the token, once.
async fn from_elsewhere(browser: &Browser, token: &Path) -> Result<()> {
    browser
        .open(&format!("http://{CLIENT_V4}:7400/?lang=en"))
        .await?;
    review(browser, "serve-login").await?;
    browser.type_into("#token", "a guess").await?;
    browser.click("form button").await?;
    browser.find("#token-says.bad").await?;
    review_answer(browser, "serve-login-wrong-en").await?;
    let token = std::fs::read_to_string(token)?;
    browser.type_into("#token", token.trim()).await?;
    browser.click("form button").await?;
    browser.find("#running").await?;
    Ok(())
}

/// What ran before is asked for, and comes back at its address. The node is drained then: the page says
/// so, and what else there is.
async fn again(world: &World, browser: &Browser) -> Result<()> {
    browser.find("#before").await?;
    ensure!(!browser.has(".tunnel").await?, "opened without asking");
    review(browser, "serve-before").await?;
    browser.click("form[action^='/restore'] button").await?;
    address(world, browser).await?;
    ensure!(!browser.has("#before").await?, "asked again");
    aside(|| world.node_cli(&["drain"])?.ok().map(drop))?;
    browser
        .until("return document.body.innerText.includes('spare')")
        .await?;
    review(browser, "serve-draining").await?;
    browser.click("#tunnels form button").await?;
    browser
        .until("return document.querySelectorAll('.tunnel').length === 0")
        .await
}

/// Programs: the same, as JSON.
fn by_the_api(world: &World, token: &Path) -> Result<()> {
    let token = std::fs::read_to_string(token)?;
    let tenant = world.invite("api", json!({ "max_proxies": 1 }))?;
    let body = json!({
        "invite": tenant.code,
        "proxies": [{ "type": "tcp", "local": world.backend.tcp }],
        "wait_s": 30,
    });
    let api = |method: reqwest::Method, path: String, body: Option<Value>| {
        let token = token.clone();
        world.lab.ns(Place::Client).run(move || {
            let url = format!("{PAGE}/api/v1/frp{path}");
            let client = reqwest::blocking::Client::builder().no_proxy().build()?;
            let mut request = client.request(method, url).bearer_auth(token);
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send()?;
            let status = response.status().as_u16();
            let text = response.text()?;
            Ok((
                status,
                serde_json::from_str::<Value>(&text).unwrap_or_default(),
            ))
        })
    };
    use reqwest::Method;
    let (status, made) = api(Method::POST, "/connect".to_owned(), Some(body))?;
    ensure!(
        status == 201 && made["phase"] == "running",
        "{status} {made}"
    );
    let address = made["proxies"][0]["address"].as_str().unwrap_or_default();
    let port = address.strip_prefix("10.77.1.1:").context("its address")?;
    ensure!(made["limits"]["max_proxies"] == 1, "{made}");
    ensure!(
        !made.to_string().contains(&tenant.code),
        "the code is in the answer"
    );
    user::fetch(
        world.lab.ns(Place::User),
        user::at(NODE_USER_V4, port.parse()?)?,
    )?;
    let (_, all) = api(Method::GET, "/connections".to_owned(), None)?;
    ensure!(
        all["items"].as_array().is_some_and(|all| all.len() == 1),
        "{all}"
    );
    let id = made["id"].as_str().context("no id")?;
    let (status, _) = api(Method::DELETE, format!("/connections/{id}"), None)?;
    ensure!(status == 204, "{status}");
    let (status, gone) = api(Method::GET, format!("/connections/{id}"), None)?;
    ensure!(
        status == 404 && gone["code"] == "not_found",
        "{status} {gone}"
    );
    let unknown = totoro_api::code::InviteCode::from_entropy([9; 16]).to_string();
    let body = json!({ "invite": unknown, "proxies": [{ "type": "tcp", "local": 22 }] });
    let (status, no) = api(Method::POST, "/connect".to_owned(), Some(body))?;
    ensure!(
        status == 403 && no["code"] == "invite_unknown",
        "{status} {no}"
    );
    ensure!(
        no["next"].as_str().is_some_and(|next| !next.is_empty()),
        "{no}"
    );
    Ok(())
}
