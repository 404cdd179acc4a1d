//! A real browser for tests of pages: Debian's Chromium without a window, driven by its chromedriver,
//! with axe-core looking for what keeps people out, and screenshots for a person's eye.
//!
//! `cargo xtask setup` installs all three. Tests that need them are ignored, and
//! `cargo xtask test` runs them as the stage `pages`.

mod axe;
mod process;

use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use thirtyfour::error::{WebDriverError, WebDriverErrorInner, WebDriverResult};
use thirtyfour::{By, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver, WebElement};

use process::Driver;

/// How long anything on a page may take: the client looks at a public node's state every 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with a profile of its own; it ends when dropped.
pub struct Browser {
    /// Not dropped: that would ask a driver to end its session and wait for long, in a thread of its
    /// own. The session ends with the driver.
    page: ManuallyDrop<WebDriver>,
    _driver: Driver,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// A dark screen.
    pub dark: bool,
    /// A phone, 390 × 844, in place of a desktop, 1280 × 900.
    pub phone: bool,
}

impl Look {
    /// All four.
    pub const EACH: [Look; 4] = [
        Look::of(false, false),
        Look::of(true, false),
        Look::of(false, true),
        Look::of(true, true),
    ];

    const fn of(dark: bool, phone: bool) -> Self {
        Look { dark, phone }
    }

    /// For a file's name.
    const fn name(self) -> &'static str {
        match (self.dark, self.phone) {
            (false, false) => "light-desktop",
            (true, false) => "dark-desktop",
            (false, true) => "light-phone",
            (true, true) => "dark-phone",
        }
    }
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// Chromium or chromedriver is not there or does not start.
    pub async fn start() -> Result<Self> {
        // reqwest, which talks to the driver, wants one even for plain HTTP; a second is no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let driver = Driver::start()?;
        let mut wanted = DesiredCapabilities::chrome();
        for argument in driver.arguments() {
            wanted.add_arg(&argument)?;
        }
        wanted.set_browser_log_level(thirtyfour::LoggingPrefsLogLevel::All)?;
        let page = WebDriver::builder(driver.url(), wanted)
            .request_timeout(PATIENCE * 2)
            .await
            .context("start Chromium")?;
        page.set_script_timeout(PATIENCE).await?;
        page.set_page_load_timeout(PATIENCE).await?;
        Ok(Browser {
            page: ManuallyDrop::new(page),
            _driver: driver,
        })
    }

    /// The page, for what is not here.
    #[must_use]
    pub fn page(&self) -> &WebDriver {
        &self.page
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// It does not load.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.page
            .goto(url)
            .await
            .with_context(|| format!("open {url}"))
    }

    /// Empties the browser's cache: what is opened next is loaded whole.
    ///
    /// # Errors
    /// The browser does not.
    pub async fn forget(&self) -> Result<()> {
        let tools = self.page.cdp();
        tools
            .send_raw("Network.clearBrowserCache", json!({}))
            .await?;
        Ok(())
    }

    /// Changes the screen.
    ///
    /// # Errors
    /// The browser does not.
    pub async fn look(&self, look: Look) -> Result<()> {
        let scheme = if look.dark { "dark" } else { "light" };
        let (width, height) = if look.phone { (390, 844) } else { (1280, 900) };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": look.phone,
        });
        let tools = self.page.cdp();
        tools.send_raw("Emulation.setEmulatedMedia", media).await?;
        tools
            .send_raw("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        Ok(())
    }

    /// The element, once it is there.
    ///
    /// # Errors
    /// It does not come.
    pub async fn find(&self, css: &str) -> Result<WebElement> {
        let began = std::time::Instant::now();
        loop {
            match self.page.find(By::Css(css)).await {
                Ok(found) => return Ok(found),
                Err(error) if began.elapsed() > PATIENCE => {
                    let text = self.text("body").await.unwrap_or_default();
                    return Err(error).with_context(|| format!("find {css} in:\n{text}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Whether there is such an element now.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn has(&self, css: &str) -> Result<bool> {
        Ok(!self.page.find_all(By::Css(css)).await?.is_empty())
    }

    /// Types into a field, in place of what is in it.
    ///
    /// # Errors
    /// There is none.
    pub async fn type_into(&self, css: &str, text: &str) -> Result<()> {
        let field = self.find(css).await?;
        field.clear().await?;
        Ok(field.send_keys(text).await?)
    }

    /// Clicks.
    ///
    /// # Errors
    /// There is nothing to click.
    pub async fn click(&self, css: &str) -> Result<()> {
        self.on(css, async |element| element.click().await).await
    }

    /// The text of an element as it is shown, once it is there.
    ///
    /// # Errors
    /// It does not come.
    pub async fn shown(&self, css: &str) -> Result<String> {
        self.on(css, async |element| element.text().await).await
    }

    /// Does something with an element; again where the page replaced it in between.
    async fn on<T>(
        &self,
        css: &str,
        work: impl AsyncFn(WebElement) -> WebDriverResult<T>,
    ) -> Result<T> {
        let began = std::time::Instant::now();
        loop {
            let done = work(self.find(css).await?).await;
            match done.as_ref().map_err(WebDriverError::as_inner) {
                Err(WebDriverErrorInner::StaleElementReference(_))
                    if began.elapsed() < PATIENCE => {}
                _ => return Ok(done?),
            }
        }
    }

    /// The text of an element as it is shown.
    ///
    /// # Errors
    /// There is none.
    pub async fn text(&self, css: &str) -> Result<String> {
        Ok(self.page.find(By::Css(css)).await?.text().await?)
    }

    /// What a script returns.
    ///
    /// # Errors
    /// It throws.
    pub async fn script(&self, script: &str) -> Result<Value> {
        Ok(self.page.execute(script, Vec::new()).await?.json().clone())
    }

    /// Waits until a script returns true.
    ///
    /// # Errors
    /// It does not.
    pub async fn until(&self, script: &str) -> Result<()> {
        let began = std::time::Instant::now();
        while self.script(script).await? != json!(true) {
            if began.elapsed() > PATIENCE {
                let text = self.text("body").await.unwrap_or_default();
                anyhow::bail!("never came true: {script}, in:\n{text}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What the browser complained of since the last call; that an answer had an error's status, which
    /// some are meant to have, is none.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let log = self.page.browser_log().await?.into_iter();
        let told = log.filter(|entry| ["SEVERE", "WARNING"].contains(&entry.level.as_str()));
        let bad = told.filter(|entry| !entry.message.contains("responded with a status of"));
        Ok(bad.map(|entry| entry.message).collect())
    }

    /// What axe-core finds on the page, one line each.
    ///
    /// # Errors
    /// It is not installed, or cannot run.
    pub async fn barriers(&self) -> Result<Vec<String>> {
        axe::barriers(&self.page).await
    }

    /// Keeps how the page looks on each kind of screen in `target/pages/`, and says what is wrong with
    /// it there: what axe-core finds, what is wider than the screen, complaints.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn review(&self, name: &str) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for look in Look::EACH {
            self.look(look).await?;
            let at = format!("{name} {}", look.name());
            // Colours and layout are each looked at twice.
            if look.dark == look.phone {
                let found = self.barriers().await?;
                wrong.extend(found.into_iter().map(|found| format!("{at}: {found}")));
            }
            let wide =
                "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
            let wide = self.script(wide).await?;
            if wide != json!(0) {
                wrong.push(format!("{at}: {wide} pixels wider than the screen"));
            }
            self.keep(&format!("{name}-{}.png", look.name())).await?;
        }
        self.look(Look::EACH[0]).await?;
        wrong.extend(self.complaints().await?);
        Ok(wrong)
    }

    /// Keeps the whole page as a picture.
    async fn keep(&self, file: &str) -> Result<()> {
        let tools = self.page.cdp();
        let sizes = tools.send_raw("Page.getLayoutMetrics", json!({})).await?;
        let size = &sizes["cssContentSize"];
        // A thousand lines are enough of a long page.
        let height = size["height"].as_f64().unwrap_or(900.0).min(4000.0);
        let clip = json!({
            "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1,
        });
        let asked = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let shot = tools.send_raw("Page.captureScreenshot", asked).await?;
        let picture = shot["data"].as_str().context("a picture")?;
        let picture = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, picture)?;
        let dir = shots();
        std::fs::create_dir_all(&dir)?;
        Ok(std::fs::write(dir.join(file), picture)?)
    }
}

/// Where pictures are kept.
fn shots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.unwrap_or_else(here).join("pages")
}
