//! `token …`: admins' tokens.

use clap::{Args, Subcommand};
use totoro_api::wire::admin::{NewToken, Token, TokenPage, TokenScope};
use totoro_cli::{Table, out, print_json};

use super::client::in_path;
use super::limits::time;
use super::{CliError, Remote};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control token create --name dashboard --scopes read --expires 90d
  totoro-control token create --name front-desk --scopes invites --json
  totoro-control token list
  totoro-control token revoke tok-0123456789ab")]
pub(super) struct TokenCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token; it is shown once.
    #[command(after_help = "\
Examples:
  totoro-control token create --name dashboard --scopes read --expires 90d
  totoro-control token create --name front-desk --scopes invites,audit --json")]
    Create {
        /// Who or what has it; the actor in the trail.
        #[arg(long)]
        name: String,
        /// What it may do: read, nodes, invites, audit, all.
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<TokenScope>,
        /// When it ends: 90d, 2030-01-31T12:00:00Z or never.
        #[arg(long, alias = "expires-at", default_value = "never")]
        expires: String,
        /// Repeating the command with the same key makes no second token, and shows it again.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List tokens.
    #[command(after_help = "\
Examples:
  totoro-control token list")]
    List,
    /// End a token for good.
    #[command(after_help = "\
Examples:
  totoro-control token revoke tok-0123456789ab")]
    Revoke {
        /// The token's id.
        token: String,
    },
}

impl TokenCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        match self.action {
            Action::Create {
                name,
                scopes,
                expires,
                idempotency_key,
            } => {
                let expires_at = Some(time("--expires", &expires)?).filter(|at| !at.is_empty());
                let new = NewToken {
                    name,
                    scopes,
                    expires_at,
                };
                let key = idempotency_key
                    .as_deref()
                    .map(|key| ("idempotency-key", key));
                let made: Token = client.post("/admin/tokens", &new, key.as_slice()).await?;
                if as_json {
                    return Ok(print_json(&made)?);
                }
                out::line(format_args!("id      {}", made.id))?;
                out::line(format_args!(
                    "token   {}",
                    made.token.as_deref().unwrap_or_default()
                ))?;
                out::line("        shown once; keep it in a file of mode 0600")?;
                out::line(format_args!("may     {}", scopes_of(&made)))?;
                out::line(format_args!(
                    "until   {}",
                    made.expires_at.as_deref().unwrap_or("never")
                ))?;
                Ok(())
            }
            Action::List => {
                let page: TokenPage = client.get("/admin/tokens").await?;
                if as_json {
                    return Ok(print_json(&page)?);
                }
                let mut table =
                    Table::new(["ID", "NAME", "SCOPES", "CREATED", "UNTIL", "LAST USED"]);
                let or = |text: &Option<String>, none: &str| {
                    text.clone().unwrap_or_else(|| none.to_owned())
                };
                for token in &page.items {
                    table.row([
                        token.id.clone(),
                        token.name.clone(),
                        scopes_of(token),
                        or(&token.created_at, "with the installation"),
                        or(&token.expires_at, "never"),
                        or(&token.last_used_at, "never"),
                    ]);
                }
                Ok(table.print()?)
            }
            Action::Revoke { token } => {
                let path = format!("/admin/tokens/{}", in_path(&token)?);
                client.delete(&path).await
            }
        }
    }
}

fn scopes_of(token: &Token) -> String {
    let names: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    names.join(",")
}
