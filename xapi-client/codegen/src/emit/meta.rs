//! `generated/meta.rs`: the static tables, one item a line so that a new datamodel reads as a diff.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::descriptor::{self, Class, Descriptor, Field, Message, Param};
use crate::ty::Type;

const BASES: &str = r#"
use crate::meta::{Class, Enum, ErrorInfo, Field, Kind, Message, Param, Qualifier, State, Type, Version};

const FIELD: Field = Field { name: "", column: "", ty: Type::Void, qualifier: Qualifier::Runtime, default: None, state: State::Published, internal: false, persist: true, min_role_get: "read-only", min_role_set: None, map_keys_min_role: &[], relation: None, absent_in_xcpng: &[] };
const MESSAGE: Message = Message { name: "", wire_name: "", kind: Kind::Custom, field: None, params: &[], result: Type::Void, errors: &[], has_async: false, needs_session: true, min_role: "read-only", state: State::Published, since: None, pool_internal: false, hidden: false, absent_in_xcpng: &[], param_count_in_xcpng: &[] };
"#;

/// Writes the tables.
pub(crate) fn emit(descriptor: &Descriptor) -> Result<String> {
    let mut out = String::from(BASES);
    versions(&mut out, descriptor)?;
    enums(&mut out, descriptor)?;
    errors(&mut out, descriptor)?;
    out.push_str(
        "\n/// Every class, in the order of the datamodel.\npub static CLASSES: &[Class] = &[\n",
    );
    for class in &descriptor.classes {
        self::class(&mut out, class).with_context(|| format!("class {}", class.name))?;
    }
    out.push_str("];\n");
    Ok(out)
}

fn versions(out: &mut String, descriptor: &Descriptor) -> Result<()> {
    out.push_str("\n/// Every release, oldest first: the named ones, then the numbered ones.\npub static VERSIONS: &[Version] = &[\n");
    for release in &descriptor.schema.releases {
        let Some(name) = &release.code_name else {
            continue;
        };
        let api_version = match &release.api_version {
            Some(text) => {
                let (major, minor) = text
                    .split_once('.')
                    .with_context(|| format!("API version of release {name}"))?;
                format!("Some(({major}, {minor}))")
            }
            None => "None".to_owned(),
        };
        writeln!(
            out,
            "    Version {{ name: {name:?}, api_version: {api_version}, branding: {:?} }},",
            release.branding
        )?;
    }
    for name in &descriptor.schema.numbered_versions {
        writeln!(
            out,
            "    Version {{ name: {name:?}, api_version: None, branding: None }},"
        )?;
    }
    out.push_str("];\n");
    Ok(())
}

fn enums(out: &mut String, descriptor: &Descriptor) -> Result<()> {
    out.push_str("\n/// Every enum.\npub static ENUMS: &[Enum] = &[\n");
    for item in &descriptor.enums {
        writeln!(
            out,
            "    Enum {{ name: {:?}, values: &{:?} }},",
            item.name, item.values
        )?;
    }
    out.push_str("];\n");
    Ok(())
}

fn errors(out: &mut String, descriptor: &Descriptor) -> Result<()> {
    out.push_str("\n/// Every error code.\npub static ERRORS: &[ErrorInfo] = &[\n");
    for error in &descriptor.errors {
        match &error.params {
            Some(params) => writeln!(
                out,
                "    ErrorInfo {{ code: {:?}, params: Some(&{params:?}) }},",
                error.code
            )?,
            None => writeln!(
                out,
                "    ErrorInfo {{ code: {:?}, params: None }},",
                error.code
            )?,
        }
    }
    out.push_str("];\n");
    Ok(())
}

fn class(out: &mut String, class: &Class) -> Result<()> {
    writeln!(
        out,
        "    Class {{ name: {:?}, event_name: {:?}, events: {}, in_database: {}, persist: {}, state: {}, absent_in_xcpng: &{:?},",
        class.name,
        class
            .event_name
            .clone()
            .unwrap_or_else(|| class.name.to_lowercase()),
        class.event_name.is_some(),
        class.in_database,
        class.persist,
        state(&class.lifecycle),
        class.absent_in_xcpng,
    )?;
    out.push_str("        fields: &[\n");
    for field in &class.fields {
        self::field(out, field).with_context(|| format!("field {}", field.name))?;
    }
    out.push_str("        ],\n        messages: &[\n");
    for message in &class.messages {
        self::message(out, class, message).with_context(|| format!("message {}", message.name))?;
    }
    out.push_str("        ],\n");
    let keys: Vec<_> = class
        .constructor_fields
        .iter()
        .map(|key| (&key.name, key.required))
        .collect();
    writeln!(out, "        constructor_fields: &{keys:?},\n    }},")?;
    Ok(())
}

/// The items that differ from the base constants `FIELD` and `MESSAGE`.
struct Items<'a> {
    out: &'a mut String,
}

impl Items<'_> {
    fn set(&mut self, name: &str, value: impl std::fmt::Display) -> Result<()> {
        Ok(write!(self.out, "{name}: {value}, ")?)
    }

    fn set_if(&mut self, condition: bool, name: &str, value: impl std::fmt::Display) -> Result<()> {
        if condition {
            self.set(name, value)
        } else {
            Ok(())
        }
    }
}

fn field(out: &mut String, field: &Field) -> Result<()> {
    out.push_str("            Field { ");
    let mut items = Items { out };
    items.set("name", quoted(&field.name))?;
    items.set("column", quoted(&field.column()))?;
    items.set("ty", ty(&Type::parse(&field.ty)?))?;
    let qualifier = match field.qualifier.as_str() {
        "RW" => "Qualifier::ReadWrite",
        "RO/constructor" => "Qualifier::Constructor",
        "RO/runtime" => "Qualifier::Runtime",
        other => anyhow::bail!("unknown qualifier `{other}`"),
    };
    items.set_if(qualifier != "Qualifier::Runtime", "qualifier", qualifier)?;
    if let Some(default) = &field.default {
        items.set("default", format_args!("Some({:?})", default.to_string()))?;
    }
    let place = state(&field.lifecycle);
    items.set_if(place != "State::Published", "state", place)?;
    items.set_if(field.internal, "internal", true)?;
    items.set_if(!field.persist, "persist", false)?;
    items.set_if(
        field.min_role_get != "read-only",
        "min_role_get",
        quoted(&field.min_role_get),
    )?;
    if let Some(role) = &field.min_role_set {
        items.set("min_role_set", format_args!("Some({role:?})"))?;
    }
    let keys: Vec<_> = field.map_keys_min_role.iter().collect();
    items.set_if(
        !keys.is_empty(),
        "map_keys_min_role",
        format_args!("&{keys:?}"),
    )?;
    if let Some((class, other)) = field
        .relation
        .as_ref()
        .and_then(|text| text.split_once('.'))
    {
        items.set("relation", format_args!("Some(({class:?}, {other:?}))"))?;
    }
    let absent = &field.absent_in_xcpng;
    items.set_if(
        !absent.is_empty(),
        "absent_in_xcpng",
        format_args!("&{absent:?}"),
    )?;
    items.out.push_str("..FIELD },\n");
    Ok(())
}

fn message(out: &mut String, class: &Class, message: &Message) -> Result<()> {
    out.push_str("            Message { ");
    let mut items = Items { out };
    items.set("name", quoted(&message.name))?;
    items.set(
        "wire_name",
        quoted(&format!("{}.{}", class.name, message.name)),
    )?;
    let kind = kind(&message.kind)?;
    items.set_if(kind != "Custom", "kind", format_args!("Kind::{kind}"))?;
    if kind.starts_with("Field") {
        let field = field_of(class, &message.name)
            .with_context(|| format!("{} acts on no field of its class", message.name))?;
        items.set("field", format_args!("Some({field:?})"))?;
    }
    if !message.params.is_empty() {
        let params: Vec<_> = message.params.iter().map(param).collect::<Result<_>>()?;
        items.set("params", format_args!("&[{}]", params.join(", ")))?;
    }
    let result = ty(&Type::parse(&message.result)?);
    items.set_if(result != "Type::Void", "result", result)?;
    let errors = &message.errors;
    items.set_if(!errors.is_empty(), "errors", format_args!("&{errors:?}"))?;
    items.set_if(message.has_async, "has_async", true)?;
    items.set_if(!message.needs_session, "needs_session", false)?;
    items.set_if(
        message.min_role != "read-only",
        "min_role",
        quoted(&message.min_role),
    )?;
    let place = state(&message.lifecycle);
    items.set_if(place != "State::Published", "state", place)?;
    if let Some(since) = descriptor::release_of(&message.lifecycle, "published") {
        items.set("since", format_args!("Some({since:?})"))?;
    }
    items.set_if(message.pool_internal, "pool_internal", true)?;
    items.set_if(message.hidden, "hidden", true)?;
    let absent = &message.absent_in_xcpng;
    items.set_if(
        !absent.is_empty(),
        "absent_in_xcpng",
        format_args!("&{absent:?}"),
    )?;
    let counts: Vec<_> = message
        .differs_in_xcpng
        .iter()
        .filter_map(|(release, there)| Some((release, there.params.as_ref()?.len())))
        .collect();
    items.set_if(
        !counts.is_empty(),
        "param_count_in_xcpng",
        format_args!("&{counts:?}"),
    )?;
    items.out.push_str("..MESSAGE },\n");
    Ok(())
}

fn param(param: &Param) -> Result<String> {
    let default = match &param.default {
        Some(value) => format!("Some({:?})", value.to_string()),
        None => "None".to_owned(),
    };
    let ty = ty(&Type::parse(&param.ty)?);
    Ok(format!(
        "Param {{ name: {:?}, ty: {ty}, default: {default} }}",
        param.name
    ))
}

/// The field that an implicit getter, setter, adder or remover acts on. Adders say `add_to_` for
/// maps and `add_` for sets, so the class decides.
fn field_of<'a>(class: &Class, message: &'a str) -> Option<&'a str> {
    ["get_", "set_", "add_to_", "add_", "remove_from_", "remove_"]
        .iter()
        .filter_map(|prefix| message.strip_prefix(prefix))
        .find(|name| class.fields.iter().any(|field| field.name == *name))
}

fn kind(kind: &str) -> Result<&'static str> {
    Ok(match kind {
        "field_get" => "FieldGet",
        "field_set" => "FieldSet",
        "field_add" => "FieldAdd",
        "field_remove" => "FieldRemove",
        "get_by_uuid" => "GetByUuid",
        "get_by_name_label" => "GetByNameLabel",
        "get_record" => "GetRecord",
        "get_all" => "GetAll",
        "get_all_where" => "GetAllWhere",
        "get_all_records" => "GetAllRecords",
        "get_all_records_where" => "GetAllRecordsWhere",
        "constructor" => "Constructor",
        "destructor" => "Destructor",
        "custom" => "Custom",
        other => anyhow::bail!("unknown message kind `{other}`"),
    })
}

fn state(lifecycle: &[String]) -> &'static str {
    match descriptor::state(lifecycle) {
        descriptor::State::Prototyped => "State::Prototyped",
        descriptor::State::Published => "State::Published",
        descriptor::State::Deprecated => "State::Deprecated",
        descriptor::State::Removed => "State::Removed",
    }
}

fn ty(ty: &Type) -> String {
    match ty {
        Type::Void => "Type::Void".to_owned(),
        Type::String | Type::Uuid => "Type::String".to_owned(),
        Type::SecretString => "Type::SecretString".to_owned(),
        Type::Int => "Type::Int".to_owned(),
        Type::Float => "Type::Float".to_owned(),
        Type::Bool => "Type::Bool".to_owned(),
        Type::DateTime => "Type::DateTime".to_owned(),
        Type::EventBatch => "Type::EventBatch".to_owned(),
        Type::AnyRecord => "Type::Record(\"<class>\")".to_owned(),
        Type::Enum(name) => format!("Type::Enum({name:?})"),
        Type::Ref(name) => format!("Type::Ref({name:?})"),
        Type::Record(name) => format!("Type::Record({name:?})"),
        Type::Set(inner) => format!("Type::Set(&{})", self::ty(inner)),
        Type::Map(key, value) => format!("Type::Map(&{}, &{})", self::ty(key), self::ty(value)),
        Type::Option(inner) => format!("Type::Option(&{})", self::ty(inner)),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
