//! What the derived schemas cannot say by themselves: bounds and forms of texts, and the types that
//! read and write themselves. The types here exist in the description alone.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::Reason;
use crate::ports::{PortRange, PortSet};
use crate::wire::admin::TokenScope;
use crate::wire::push::InviteState;

/// Text without control characters.
const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Names schemas of texts: each a type, a description, and what narrows it.
macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident = |$text:ident| $narrowed:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let $text = string().description(Some(concat!($($doc),+).trim()));
                $narrowed.build().into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

fn form(text: ObjectBuilder, format: &str, example: &str) -> ObjectBuilder {
    text.format(Some(SchemaFormat::Custom(format.to_owned())))
        .examples([example])
}

fn free(text: ObjectBuilder, longest: usize) -> ObjectBuilder {
    text.pattern(Some(NO_CONTROLS)).max_length(Some(longest))
}

texts! {
    /// A time, RFC 3339, not before 1970.
    Time = |text| form(text, "date-time", "2030-01-31T12:00:00Z");
    /// A time, RFC 3339, not before 1970; empty = never.
    TimeOrNever = |text| form(text, "time-or-never", "2030-01-31T12:00:00Z");
    /// Where clients reach frps: a name, an IPv4 address or an IPv6 address in brackets, `:`, a port.
    HostPort = |text| form(text, "host-port", "n1.example.org:7000");
    /// An address, or a prefix of at least /8 (IPv4) or /16 (IPv6).
    Prefix = |text| form(text, "ip-prefix", "192.0.2.0/24");
    /// Letters, digits, `-` and `_`.
    Id = |text| text.pattern(Some("^[A-Za-z0-9_-]{1,64}$"));
    /// Letters, digits and `-`, which neither begins nor ends it.
    NodeName = |text| text
        .pattern(Some("^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"));
    /// 128 bits in hex.
    Hex32 = |text| text.pattern(Some("^[0-9A-Fa-f]{32}$"));
    /// 256 bits in hex.
    Hex64 = |text| text.pattern(Some("^[0-9A-Fa-f]{64}$"));
    /// The id of a ticket key.
    Kid = |text| text.pattern(Some("^[!-~]{0,64}$"));
    /// A name for people, without control characters.
    Label = |text| free(text, 80);
    /// Free text, without control characters.
    Note = |text| free(text, 300);
    /// Free text, without control characters.
    Note200 = |text| free(text, 200);
    /// Free text, without control characters.
    Text120 = |text| free(text, 120);
    /// A free word, without control characters.
    Tag = |text| free(text, 40);
    /// What a change may make of an invite: `active` resumes, `paused` pauses.
    Resumable = |text| text.enum_values(Some(["active", "paused"]));
}

impl PartialSchema for Reason {
    fn schema() -> RefOr<Schema> {
        string()
            .description(Some("Why something was refused: the stable code."))
            .enum_values(Some(Reason::ALL.iter().map(|reason| reason.code())))
            .build()
            .into()
    }
}

impl ToSchema for Reason {}

impl PartialSchema for TokenScope {
    fn schema() -> RefOr<Schema> {
        string()
            .description(Some(
                "What a token may do: `read` everything but tokens, `nodes` with their sessions and \
                 bans, `invites`, read the `audit` trail, or `all`.",
            ))
            .enum_values(Some(TokenScope::EACH.map(TokenScope::as_str)))
            .build()
            .into()
    }
}

impl ToSchema for TokenScope {}

impl PartialSchema for InviteState {
    fn schema() -> RefOr<Schema> {
        string()
            .description(Some(
                "`active` admits; `paused` refuses what is new; `revoked` and `expired` cut what \
                 lives, and revoked is final.",
            ))
            .enum_values(Some(["active", "paused", "revoked", "expired"]))
            .build()
            .into()
    }
}

impl ToSchema for InviteState {}

impl PartialSchema for PortRange {
    fn schema() -> RefOr<Schema> {
        form(string(), "port-range", "20000-20099")
            .description(Some("A port, or a first and a last one; 1 to 65535."))
            .build()
            .into()
    }
}

impl ToSchema for PortRange {}

impl PartialSchema for PortSet {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(RefOr::Ref(Ref::from_schema_name("PortRange")))
            .description(Some("Ports: ranges, at most 32 once merged."))
            .build()
            .into()
    }
}

impl ToSchema for PortSet {
    fn name() -> Cow<'static, str> {
        "PortSet".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("PortRange".to_owned(), PortRange::schema()));
    }
}
