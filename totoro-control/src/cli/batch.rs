//! Many new invites, for people, programs and spreadsheets. Their codes are shown here only.

use totoro_api::wire::invite::InvitePage;
use totoro_cli::{Table, out, print_json};

use super::CliError;

/// Prints what a batch has made.
pub(super) fn show(made: &InvitePage, as_csv: bool, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return Ok(print_json(made)?);
    }
    if as_csv {
        return Ok(out::text(&csv(made))?);
    }
    let mut table = Table::new(["ID", "LABEL", "CODE", "QR"]);
    for invite in &made.items {
        table.row([
            invite.id.clone(),
            invite.label.clone(),
            invite.code.clone().unwrap_or_default(),
            invite.code_qr.clone().unwrap_or_default(),
        ]);
    }
    Ok(table.print()?)
}

/// RFC 4180, with a head.
fn csv(made: &InvitePage) -> String {
    let mut text = "id,label,code,qr,expires_at\r\n".to_owned();
    for invite in &made.items {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells = [
            invite.id.clone(),
            invite.label.clone(),
            or_empty(&invite.code),
            or_empty(&invite.code_qr),
            or_empty(&invite.expires_at),
        ];
        text.push_str(&cells.map(|text| cell(&text)).join(","));
        text.push_str("\r\n");
    }
    text
}

/// A cell, quoted where it must be. A label that a spreadsheet would take for a formula is made a
/// text by an apostrophe before it.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        assert_eq!(cell("a b"), "a b");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=1+1"), "'=1+1");
    }
}
