//! `node change`.

use clap::Args;
use totoro_api::ports::{Pool, PortSet};
use totoro_api::wire::node::{ChangeNode, Node, Visibility};

use super::super::CliError;
use super::super::limits::json;

#[derive(Args)]
pub(super) struct Change {
    /// Its id or name.
    pub(super) node: String,
    /// Take nothing new.
    #[arg(long, value_name = "BOOL")]
    draining: Option<bool>,
    /// Take nothing, and cut what lives.
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
    /// Whether anyone may connect.
    #[arg(long, value_name = "BOOL")]
    public: Option<bool>,
    /// TCP ports to lend.
    #[arg(long, value_name = "PORTS")]
    pool_tcp: Option<PortSet>,
    /// UDP ports to lend.
    #[arg(long, value_name = "PORTS")]
    pool_udp: Option<PortSet>,
    /// Where clients reach frps.
    #[arg(long, value_name = "HOST:PORT")]
    server_addr: Vec<String>,
    /// What one anonymous tenant gets; replaced whole.
    #[arg(long, value_name = "JSON")]
    public_limits: Option<String>,
    /// Ceilings of all anonymous tenants together; replaced whole.
    #[arg(long, value_name = "JSON")]
    public_max: Option<String>,
    /// What an invite that says nothing gets; replaced whole.
    #[arg(long, value_name = "JSON")]
    defaults: Option<String>,
    /// Where it stands; '' for nothing, as in the three below.
    #[arg(long)]
    region: Option<String>,
    /// Whose network it is in.
    #[arg(long)]
    isp: Option<String>,
    /// Free words, in place of those it has.
    #[arg(long, value_delimiter = ',')]
    tags: Option<Vec<String>>,
    /// Whom an abused or banned person may write to.
    #[arg(long)]
    abuse_contact: Option<String>,
}

impl Change {
    /// What is asked, from the node as it is.
    pub(super) fn to_change(&self, node: &Node) -> Result<ChangeNode, CliError> {
        let pool = (self.pool_tcp.is_some() || self.pool_udp.is_some()).then(|| Pool {
            tcp: self
                .pool_tcp
                .clone()
                .unwrap_or_else(|| node.pool.tcp.clone()),
            udp: self
                .pool_udp
                .clone()
                .unwrap_or_else(|| node.pool.udp.clone()),
        });
        let limits = |flag: &str, text: Option<&str>| text.map(|text| json(flag, text)).transpose();
        let public_max = self.public_max.as_deref();
        let public_max = public_max.map(|text| json("--public-max", text));
        let tags = self.tags.clone().map(|mut tags| {
            tags.retain(|tag| !tag.is_empty());
            tags
        });
        Ok(ChangeNode {
            visibility: self.public.map(|public| match public {
                true => Visibility::Public,
                false => Visibility::Private,
            }),
            draining: self.draining,
            disabled: self.disabled,
            server_addr: (!self.server_addr.is_empty()).then(|| self.server_addr.clone()),
            pool,
            defaults: limits("--defaults", self.defaults.as_deref())?,
            public_limits: limits("--public-limits", self.public_limits.as_deref())?,
            public_max: public_max.transpose()?,
            region: self.region.clone(),
            isp: self.isp.clone(),
            tags,
            abuse_contact: self.abuse_contact.clone(),
        })
    }
}
