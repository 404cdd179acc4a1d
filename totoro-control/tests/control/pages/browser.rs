//! The page in a real browser: the stories of a person, on every kind of screen, in both languages.
//! Pictures of each state are in `target/pages/`.

use serde_json::json;
use totoro_browser::{Browser, Look};

use super::{many, serving};
use crate::support::{Control, quiet};

const NONE: [&str; 0] = [];

/// Its nodes are online for as long as a test may take: nobody reports again.
fn control() -> Control {
    let env = ("TOTORO_CONTROL_HEARTBEAT_INTERVAL", "5m".to_owned());
    Control::over(Control::init(&[]), &[quiet(), env])
}

/// One browser for several: starting takes longer than most of them.
#[tokio::test]
#[ignore = "needs a browser: cargo xtask test runs it as `pages`"]
async fn stories() {
    let browser = Browser::start().await.unwrap();
    from_the_list_to_a_command_in_both_languages(&browser).await;
    the_script_and_the_program_agree_on_codes(&browser).await;
}

#[tokio::test]
#[ignore = "needs a browser: cargo xtask test runs it as `pages`"]
async fn codes_many_nodes_and_hostile_ones() {
    let browser = Browser::start().await.unwrap();
    a_code_is_judged_while_it_is_typed_and_shows_what_it_gives(&browser).await;
    a_thousand_nodes_are_filtered_and_paged_through(&browser).await;
    a_hostile_nodes_words_are_words(&browser).await;
}

/// Several nodes as they are in the wild.
async fn some(control: &Control) {
    let said = [
        (
            "tokyo-1",
            "Tokyo, JP",
            "Example Transit KK",
            json!(["ipv6", "game"]),
        ),
        ("frankfurt-2", "Frankfurt, DE", "Beispielnetz", json!([])),
        ("chengdu-3", "四川成都", "中国电信", json!(["游戏"])),
    ];
    for (name, region, isp, tags) in said {
        let contact = "abuse@tunnels.example.org";
        let more = json!({ "region": region, "isp": isp, "tags": tags, "abuse_contact": contact });
        serving(control, name, more).await;
    }
    super::public(control, "attic", json!({ "region": "<b>nowhere</b>" })).await;
}

async fn from_the_list_to_a_command_in_both_languages(browser: &Browser) {
    let control = control();
    for lang in ["en", "zh"] {
        let at = format!("{}/?lang={lang}", control.api);
        browser.open(&at).await.unwrap();
        assert_eq!(
            browser.review(&format!("home-empty-{lang}")).await.unwrap(),
            NONE
        );
    }
    some(&control).await;
    for lang in ["en", "zh"] {
        let at = format!("{}/?lang={lang}", control.api);
        browser.open(&at).await.unwrap();
        browser.click("summary").await.unwrap();
        assert_eq!(browser.review(&format!("home-{lang}")).await.unwrap(), NONE);
        browser.click("button[name=node]").await.unwrap();
        browser.find("#given").await.unwrap();
        let focused = browser
            .script("return document.activeElement.id")
            .await
            .unwrap();
        assert_eq!(focused, "given", "who cannot see is taken to what is new");
        assert_eq!(
            browser.review(&format!("home-node-{lang}")).await.unwrap(),
            NONE
        );
    }
    // The other language is one click away, and keeps what was chosen.
    browser
        .open(&format!("{}/?lang=en&region=Tokyo%2C+JP", control.api))
        .await
        .unwrap();
    browser.click("nav a[hreflang=zh]").await.unwrap();
    assert!(browser.text("h2").await.unwrap().contains("公共节点"));
    let rows = browser
        .script("return document.querySelectorAll('tbody tr').length")
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

async fn a_code_is_judged_while_it_is_typed_and_shows_what_it_gives(browser: &Browser) {
    let control = control();
    let node = control.node("n1").await;
    let (_, code) = control.invite(&node, json!({})).await;
    for lang in ["en", "zh"] {
        browser
            .open(&format!("{}/?lang={lang}", control.api))
            .await
            .unwrap();
        let said = async || browser.text("#code-says").await.unwrap();
        let class = async || {
            browser
                .script("return document.getElementById('code-says').className")
                .await
                .unwrap()
        };
        let hint = said().await;
        browser.type_into("#code", &code[..12]).await.unwrap();
        assert!(said().await.starts_with("14 "), "{}", said().await);
        browser
            .type_into("#code", &code.to_lowercase())
            .await
            .unwrap();
        assert_eq!(class().await, "hint good");
        assert_eq!(
            browser.review(&format!("code-good-{lang}")).await.unwrap(),
            NONE
        );
        for wrong in [
            "hello",
            "tn1-0000-0000-0000-0000-0000-1",
            "<img src=x onerror=alert(1)>",
        ] {
            browser.type_into("#code", wrong).await.unwrap();
            assert_eq!(class().await, "hint bad", "{wrong}");
        }
        assert_eq!(
            browser.review(&format!("code-bad-{lang}")).await.unwrap(),
            NONE
        );
        browser.find("#code").await.unwrap().clear().await.unwrap();
        browser
            .script("document.getElementById('code').dispatchEvent(new Event('input'))")
            .await
            .unwrap();
        assert_eq!(said().await, hint);
        // By the keyboard alone.
        browser
            .type_into("#code", &format!("{code}\n"))
            .await
            .unwrap();
        browser.find("#given").await.unwrap();
        let address = browser.script("return location.href").await.unwrap();
        assert!(!address.as_str().unwrap().contains("tn1"), "{address}");
        let copy = browser
            .script("return document.querySelectorAll('button[data-copy]:not([hidden])').length");
        assert_eq!(copy.await.unwrap(), 2);
        assert_eq!(
            browser.review(&format!("code-given-{lang}")).await.unwrap(),
            NONE
        );
        // What is refused says so.
        browser
            .type_into("#code", "tn1-0000-0000-0000-0000-0000-0\n")
            .await
            .unwrap();
        browser.find("#refused").await.unwrap();
        assert_eq!(
            browser
                .review(&format!("code-refused-{lang}"))
                .await
                .unwrap(),
            NONE
        );
    }
}

/// What the script says of a code while it is typed is what the program says of it.
async fn the_script_and_the_program_agree_on_codes(browser: &Browser) {
    let control = control();
    browser.open(&control.api).await.unwrap();
    let mut texts = Vec::new();
    for number in 0..200u64 {
        let mut entropy = [0; 16];
        getrandom::fill(&mut entropy).unwrap();
        entropy[15] = number as u8;
        let code = totoro_api::code::InviteCode::from_entropy(entropy);
        texts.extend([
            code.to_string(),
            code.qr().to_lowercase(),
            code.normalised().replace('0', "o"),
        ]);
        let mut wrong = code.normalised().into_bytes();
        wrong[4 + number as usize % 20] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number as usize % 32];
        texts.push(String::from_utf8(wrong).unwrap());
    }
    texts.extend(
        [
            "tn2-000000000000000000000",
            "tn1-U00000000000000000000",
            "TN1000000000000000000000U5",
        ]
        .map(str::to_owned),
    );
    let list = serde_json::to_string(&texts).unwrap();
    let judged = browser
        .script(&format!("return {list}.map(judge)"))
        .await
        .unwrap();
    for (text, said) in texts.iter().zip(judged.as_array().unwrap()) {
        let good = text.parse::<totoro_api::code::InviteCode>().is_ok();
        assert_eq!(said == "good", good, "{text}: {said}");
    }
}

async fn a_thousand_nodes_are_filtered_and_paged_through(browser: &Browser) {
    let control = control();
    many(&control, 1000).await;
    // What is measured is a page that was asked for before, as with a server that runs.
    for _ in 0..3 {
        browser
            .open(&format!("{}/?lang=en", control.api))
            .await
            .unwrap();
    }
    browser
        .until("return performance.getEntriesByName('first-contentful-paint').length > 0")
        .await
        .unwrap();
    let painted = "return performance.getEntriesByName('first-contentful-paint')[0].startTime";
    let weight = "return performance.getEntriesByType('navigation')[0].transferSize";
    println!(
        "first paint after {:.0} ms, {} bytes",
        browser.script(painted).await.unwrap().as_f64().unwrap(),
        browser.script(weight).await.unwrap()
    );
    assert_eq!(browser.review("home-many-en").await.unwrap(), NONE);
    browser.click("a[rel=next]").await.unwrap();
    browser
        .until("return document.querySelector('.pages span')?.textContent.startsWith('2 / 20')")
        .await
        .unwrap();
    // Without the script, and so without its help, all of it works as well.
    let filter = "document.querySelector('select[name=region]').value = 'region-3'; document.querySelector('form.line button').click()";
    let filter = filter.replace("'form.line button'", "'form[method=get] button'");
    browser.script(&filter).await.unwrap();
    browser.until("return document.querySelectorAll('tbody tr').length === 50 && location.search.includes('region-3')").await.unwrap();
    browser
        .look(Look {
            dark: false,
            phone: true,
        })
        .await
        .unwrap();
    assert_eq!(browser.complaints().await.unwrap(), NONE);
}

/// A hostile node's words, seen by the browser itself.
async fn a_hostile_nodes_words_are_words(browser: &Browser) {
    let control = control();
    let evil = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">";
    let long = "A".repeat(120);
    let said = json!({ "region": evil, "isp": long, "tags": ["\u{202e}drow", "<u>x"], "abuse_contact": evil });
    serving(&control, &"n".repeat(63), said).await;
    browser
        .open(&format!("{}/?lang=en", control.api))
        .await
        .unwrap();
    browser.click("summary").await.unwrap();
    assert_eq!(browser.review("home-hostile-en").await.unwrap(), NONE);
    assert!(browser.text("tbody").await.unwrap().contains("<img src=x"));
    assert!(browser.page().title().await.unwrap().starts_with("Totoro"));
    browser.click("button[name=node]").await.unwrap();
    browser.find("#given").await.unwrap();
    assert_eq!(browser.review("home-hostile-node-en").await.unwrap(), NONE);
    // Ten megabytes in the field, and one of them sent.
    let paste = "const code = document.getElementById('code'); code.value = 'x'.repeat(1e7);
        code.dispatchEvent(new Event('input')); code.value = 'x'.repeat(1e6); code.form.requestSubmit()";
    browser.script(paste).await.unwrap();
    browser.find("#refused").await.unwrap();
    assert_eq!(browser.complaints().await.unwrap(), NONE);
}
