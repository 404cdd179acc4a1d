//! `drain`: this node takes nothing new, or does again.

use anyhow::Result;
use totoro_api::wire::node::{ChangeSelf, Node, NodeState};
use totoro_cli::{out, print_json};

use crate::control::Control;

/// Drains, or ends it.
pub(super) async fn run(control: &Control, draining: bool, as_json: bool) -> Result<()> {
    let (_, tag): (Node, String) = control.get_tagged("/nodes/self").await?;
    let change = ChangeSelf {
        draining: Some(draining),
        ..ChangeSelf::default()
    };
    let node: Node = control.patch("/nodes/self", &tag, &change).await?;
    if as_json {
        return Ok(print_json(&node)?);
    }
    if draining {
        out::line(format_args!(
            "{} takes nothing new; what lives goes on (drain --off ends it)",
            node.name
        ))?;
    } else {
        out::line(format_args!("{} takes what is new again", node.name))?;
    }
    if node.state == NodeState::Offline {
        out::line("its daemon does not report now: it learns of this when it does")?;
    }
    Ok(())
}
