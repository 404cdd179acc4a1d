//! Where code and control plane come from: what is said now goes before what is remembered, and a
//! person is asked last.

use std::io::IsTerminal as _;
use std::path::Path;

use super::Common;
use super::output::Output;
use crate::access::Source;
use crate::control::Control;
use crate::error::Error;
use crate::invite::{self, Given};
use crate::lang::say;
use crate::private;
use crate::settings::Remembered;

/// The longest code or pasted file that is taken from the environment, bytes.
const MAX_TEXT: usize = 64 << 10;

/// A control plane, and the way in.
pub(super) struct Answers {
    pub(super) control: Control,
    pub(super) source: Source,
    remember: Option<Remembered>,
}

impl Common {
    /// Who is asked, without any code.
    pub(super) fn control(&self, output: Output) -> Result<Control, Error> {
        let kept = Remembered::load(output.lang)?;
        self.control_of(None, &kept)
    }

    fn control_of(&self, named: Option<&str>, kept: &Remembered) -> Result<Control, Error> {
        let said = self.control.as_deref().or(named);
        let remembered = said.is_none();
        let url = said.or(kept.control.as_deref()).ok_or(Error::NoControl)?;
        Control::new(url, self.insecure_http || remembered && kept.insecure_http)
    }

    /// Both: from what is given, or by asking.
    pub(super) async fn answers(
        &self,
        node: Option<&str>,
        output: Output,
    ) -> Result<Answers, Error> {
        let source = node.map(|node| Source::Public(node.to_owned()));
        self.answers_with(source, None, None, output).await
    }

    /// The same, where a file has said some of it.
    pub(super) async fn answers_with(
        &self,
        source: Option<Source>,
        control: Option<&str>,
        invite_file: Option<&Path>,
        output: Output,
    ) -> Result<Answers, Error> {
        let kept = Remembered::load(output.lang)?;
        if let Some(source) = source {
            return Ok(Answers {
                control: self.control_of(control, &kept)?,
                source,
                remember: None,
            });
        }
        let file = self.invite_file.as_deref().or(invite_file);
        let given = match (file, std::env::var("TOTORO_INVITE").ok()) {
            (Some(file), _) => Some(invite::read(&private::read_secret(file)?, output.lang)?),
            (None, Some(text)) if text.len() > MAX_TEXT => {
                return Err(Error::BadCode(totoro_api::code::BadCode::Malformed));
            }
            (None, Some(text)) => Some(invite::read(&text, output.lang)?),
            (None, None) => match &kept.invite {
                Some(code) => Some(invite::read(code, output.lang)?),
                None => None,
            },
        };
        // What can't work is told before a person is asked.
        let named = given.as_ref().and_then(|given| given.control.clone());
        let control = self.control_of(named.as_deref().or(control), &kept)?;
        let (Given { source, .. }, asked) = match given {
            Some(given) => (given, false),
            None => (prompt(output).await?, true),
        };
        let wanted = self.remember || asked && wants_it_kept(output).await;
        let remember = match (&source, wanted) {
            (Source::Invite(code), true) => Some(Remembered {
                control: Some(control.url().to_owned()),
                insecure_http: self.insecure_http || kept.insecure_http,
                invite: Some(code.to_string()),
            }),
            _ => None,
        };
        Ok(Answers {
            control,
            source,
            remember,
        })
    }
}

impl Answers {
    /// Keeps what a person wanted kept, once it is known to be good.
    pub(super) fn keep(&mut self, output: Output) -> Result<(), Error> {
        let Some(kept) = self.remember.take() else {
            return Ok(());
        };
        let path = kept.save()?;
        if !output.json {
            let path = path.display();
            output.line(&say!(
                output.lang,
                "remembered in {path} (delete it to forget)",
                "已记住，保存在 {path}（删除即可忘记）"
            ));
        }
        Ok(())
    }
}

/// Asks for the code, unseen.
async fn prompt(output: Output) -> Result<Given, Error> {
    if output.json || !std::io::stdin().is_terminal() {
        return Err(Error::NoCode);
    }
    let question = say!(output.lang, "Invite code (unseen): ", "邀请码（不回显）：");
    let asked = tokio::task::spawn_blocking(move || rpassword::prompt_password(question));
    let text = asked.await.ok().and_then(Result::ok).ok_or(Error::NoCode)?;
    invite::read(&text, output.lang)
}

/// Asks whether it is to be kept; no answer is no.
async fn wants_it_kept(output: Output) -> bool {
    let question = say!(
        output.lang,
        "Remember it in a file that only you can read? [y/N] ",
        "是否保存到仅你可读的文件中？[y/N] "
    );
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        out.write_all(question.as_bytes()).ok();
        out.flush().ok();
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).ok();
        matches!(line.trim(), "y" | "Y" | "yes" | "是")
    });
    asked.await.unwrap_or(false)
}
