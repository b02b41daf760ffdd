//! From the datamodel to the typed API: what is left out, what becomes a struct, and all names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::descriptor::{self, Descriptor, State, release_of, state};
use crate::names::{camel, value_name};
use crate::ty::Type;

/// More parameters than this, and a message takes a struct.
const MAX_PARAMETERS: usize = 8;

/// `overrides.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Overrides {
    types: BTreeMap<String, String>,
    records: Records,
    arguments: Arguments,
    inputs: BTreeMap<String, InputOverride>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Records {
    hand_written: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Arguments {
    structs: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InputOverride {
    new: Option<Vec<String>>,
    defaults: BTreeMap<String, String>,
}

/// The typed API.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) classes: Vec<Class>,
    pub(crate) enums: Vec<Enum>,
    pub(crate) errors: Vec<ErrorCode>,
}

#[derive(Debug)]
pub(crate) struct Class {
    /// `VM_metrics`.
    pub(crate) wire: String,
    /// `VmMetrics`.
    pub(crate) type_name: String,
    /// `vm_metrics`: the module, the accessor and the usual name of a reference.
    pub(crate) module: String,
    pub(crate) place: Place,
    /// Empty where the record is written by hand.
    pub(crate) record: Vec<Field>,
    /// Whether the server can search it.
    pub(crate) searchable: bool,
    pub(crate) inputs: Vec<Input>,
    pub(crate) messages: Vec<Message>,
}

/// Where an item stands in the life cycle of the API.
#[derive(Debug)]
pub(crate) struct Place {
    /// The release that published it, or made it available as a prototype.
    pub(crate) since: Option<String>,
    pub(crate) prototyped: bool,
    /// The release that deprecated it.
    pub(crate) deprecated: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) wire: String,
    /// The column in the server's database, `name__label`.
    pub(crate) column: String,
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) writer: &'static str,
    pub(crate) place: Place,
}

/// A struct of arguments.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) type_name: String,
    /// The message it is for, `VDI.create`.
    pub(crate) message: String,
    /// Whether it goes as one struct (constructors) or as positional parameters.
    pub(crate) is_struct: bool,
    pub(crate) fields: Vec<InputField>,
    /// The wire names of the fields that `new` takes, in its order.
    pub(crate) new: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct InputField {
    pub(crate) wire: String,
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) value: InputValue,
}

/// Where the value of an input field comes from.
#[derive(Debug)]
pub(crate) enum InputValue {
    /// A parameter of `new`. Where the server does not require it, it is sent all the same.
    New,
    /// Starts neutral: empty, zero, false.
    Neutral,
    /// Starts with this value.
    Fixed(String),
    /// Starts as `None`; then the server's default holds. Positional ones need that default as JSON,
    /// for when one that follows is given.
    Optional(Option<String>),
}

#[derive(Debug)]
pub(crate) struct Message {
    /// `VM.clone`.
    pub(crate) wire: String,
    pub(crate) name: String,
    /// What it does, without a full stop.
    pub(crate) summary: String,
    /// Whether it acts on a single field: then its documentation is one line.
    pub(crate) on_field: bool,
    pub(crate) params: Params,
    pub(crate) result: Type,
    pub(crate) errors: Vec<String>,
    pub(crate) has_async: bool,
    pub(crate) needs_session: bool,
    pub(crate) min_role: String,
    pub(crate) hidden: bool,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) enum Params {
    Positional(Vec<Param>),
    /// The name of the `Input`.
    Input(String),
}

#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// The server's default as JSON: the parameter is an `Option`.
    pub(crate) default: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Enum {
    pub(crate) wire: String,
    pub(crate) type_name: String,
    /// Variant and wire value.
    pub(crate) values: Vec<(String, String)>,
}

#[derive(Debug)]
pub(crate) struct ErrorCode {
    pub(crate) variant: String,
    pub(crate) code: String,
    pub(crate) params: Option<Vec<String>>,
}

/// Makes the typed API of a datamodel.
pub(crate) fn lower(descriptor: &Descriptor, overrides: &Overrides) -> Result<Api> {
    let removed: BTreeSet<_> = descriptor
        .classes
        .iter()
        .filter(|class| state(&class.lifecycle) == State::Removed)
        .map(|class| class.name.as_str())
        .collect();
    let lowering = Lowering { overrides, removed };
    let classes = descriptor
        .classes
        .iter()
        .filter(|class| !lowering.removed.contains(class.name.as_str()))
        .map(|class| {
            lowering
                .class(class)
                .with_context(|| format!("class {}", class.name))
        })
        .collect::<Result<Vec<_>>>()?;
    let api = Api {
        enums: enums(descriptor, &classes)?,
        errors: errors(descriptor)?,
        classes,
    };
    unique(&api)?;
    Ok(api)
}

struct Lowering<'a> {
    overrides: &'a Overrides,
    removed: BTreeSet<&'a str>,
}

impl Lowering<'_> {
    fn class(&self, class: &descriptor::Class) -> Result<Class> {
        let mut inputs = Vec::new();
        let mut messages = Vec::new();
        for message in &class.messages {
            if message.pool_internal || state(&message.lifecycle) == State::Removed {
                continue;
            }
            let lowered = self.message(class, message, &mut inputs);
            messages.extend(lowered.with_context(|| format!("message {}", message.name))?);
        }
        Ok(Class {
            wire: class.name.clone(),
            type_name: camel(&class.name),
            module: value_name(&class.name),
            place: place(&class.lifecycle),
            record: if self.overrides.records.hand_written.contains(&class.name) {
                Vec::new()
            } else {
                self.record(class)?
            },
            searchable: messages
                .iter()
                .any(|message| message.wire.ends_with(".get_all_records_where")),
            inputs,
            messages,
        })
    }

    fn record(&self, class: &descriptor::Class) -> Result<Vec<Field>> {
        let mut fields = Vec::new();
        for field in &class.fields {
            if field.internal || state(&field.lifecycle) == State::Removed {
                continue;
            }
            let ty = self.ty(&format!("{}.{}", class.name, field.name), &field.ty)?;
            if self.mentions_removed(&ty) {
                continue;
            }
            fields.push(Field {
                wire: field.name.clone(),
                column: field.column(),
                name: value_name(&field.name),
                ty: if field.name == "uuid" { Type::Uuid } else { ty },
                writer: match field.qualifier.as_str() {
                    "RW" => "writable",
                    "RO/constructor" => "set at creation",
                    _ => "set by the server",
                },
                place: place(&field.lifecycle),
            });
        }
        Ok(fields)
    }

    /// The typed message; `None` where its types name a removed class.
    fn message(
        &self,
        class: &descriptor::Class,
        message: &descriptor::Message,
        inputs: &mut Vec<Input>,
    ) -> Result<Option<Message>> {
        let wire = format!("{}.{}", class.name, message.name);
        let result = self.ty(&wire, &message.result)?;
        let mut params = Vec::new();
        for param in &message.params {
            let ty = self.ty(&format!("{wire}.{}", param.name), &param.ty)?;
            if self.mentions_removed(&ty) {
                return Ok(None);
            }
            let default = param.default.as_ref().map(ToString::to_string);
            params.push((param.name.clone(), ty, default));
        }
        if self.mentions_removed(&result) {
            return Ok(None);
        }
        let takes_struct = message.params.iter().any(|param| param.constructor_record);
        let params = if takes_struct {
            let input = self.constructor(class, &wire)?;
            let params = Params::Input(input.type_name.clone());
            inputs.push(input);
            params
        } else if params.len() > MAX_PARAMETERS || self.overrides.arguments.structs.contains(&wire)
        {
            let input = self.arguments(class, message, &wire, params)?;
            let params = Params::Input(input.type_name.clone());
            inputs.push(input);
            params
        } else {
            Params::Positional(positional(class, params))
        };
        Ok(Some(Message {
            name: value_name(&message.name),
            summary: summary(class, message),
            on_field: message.kind.starts_with("field_"),
            params,
            result,
            errors: message.errors.clone(),
            has_async: message.has_async,
            needs_session: message.needs_session,
            min_role: message.min_role.clone(),
            hidden: message.hidden,
            place: place(&message.lifecycle),
            wire,
        }))
    }

    fn constructor(&self, class: &descriptor::Class, wire: &str) -> Result<Input> {
        let mut fields = Vec::new();
        for key in &class.constructor_fields {
            let Some(field) = class.fields.iter().find(|field| field.name == key.name) else {
                bail!("the constructor reads `{}`, which is no field", key.name);
            };
            let ty = self.ty(&format!("{}.{}", class.name, field.name), &field.ty)?;
            let gone = state(&field.lifecycle) == State::Removed || self.mentions_removed(&ty);
            if gone && !key.required {
                continue;
            }
            fields.push((key.name.clone(), ty, (!key.required).then_some(None)));
        }
        self.input(format!("{}Create", camel(&class.name)), wire, true, fields)
    }

    fn arguments(
        &self,
        class: &descriptor::Class,
        message: &descriptor::Message,
        wire: &str,
        params: Vec<(String, Type, Option<String>)>,
    ) -> Result<Input> {
        let fields = params
            .into_iter()
            .map(|(name, ty, default)| (name, ty, default.map(Some)))
            .collect();
        let name = format!("{}{}", camel(&class.name), camel(&message.name));
        self.input(name, wire, false, fields)
    }

    /// Fields come with `Some` where they may be left out, and the default where it is needed.
    fn input(
        &self,
        type_name: String,
        wire: &str,
        is_struct: bool,
        fields: Vec<(String, Type, Option<Option<String>>)>,
    ) -> Result<Input> {
        let rules = self.overrides.inputs.get(wire);
        let in_new = rules.and_then(|rules| rules.new.as_ref());
        for name in in_new.into_iter().flatten() {
            if !fields.iter().any(|(field, ..)| field == name) {
                bail!("overrides name `{name}`, which {wire} does not take");
            }
        }
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(wire, ty, optional)| {
                let needs_value = matches!(
                    ty,
                    Type::Ref(_) | Type::Enum(_) | Type::SecretString | Type::DateTime
                );
                let fixed = rules.and_then(|rules| rules.defaults.get(&wire));
                let value = match (in_new, optional) {
                    (Some(names), _) if names.contains(&wire) => InputValue::New,
                    (_, Some(default)) => InputValue::Optional(default),
                    (None, None) if needs_value => InputValue::New,
                    (_, None) => fixed
                        .cloned()
                        .map_or(InputValue::Neutral, InputValue::Fixed),
                };
                InputField {
                    name: value_name(&wire),
                    wire,
                    ty,
                    value,
                }
            })
            .collect();
        let new = in_new.cloned().unwrap_or_else(|| {
            let in_new = fields
                .iter()
                .filter(|field| matches!(field.value, InputValue::New));
            in_new.map(|field| field.wire.clone()).collect()
        });
        Ok(Input {
            type_name,
            message: wire.to_owned(),
            is_struct,
            fields,
            new,
        })
    }

    fn ty(&self, path: &str, declared: &str) -> Result<Type> {
        let text = self
            .overrides
            .types
            .get(path)
            .map_or(declared, String::as_str);
        Type::parse(text).with_context(|| format!("type of {path}"))
    }

    fn mentions_removed(&self, ty: &Type) -> bool {
        match ty {
            Type::Ref(class) | Type::Record(class) => self.removed.contains(class.as_str()),
            Type::Set(inner) | Type::Option(inner) => self.mentions_removed(inner),
            Type::Map(key, value) => self.mentions_removed(key) || self.mentions_removed(value),
            _ => false,
        }
    }
}

/// Names parameters; the object that a message acts on is called after its class.
fn positional(
    class: &descriptor::Class,
    params: Vec<(String, Type, Option<String>)>,
) -> Vec<Param> {
    let own = value_name(&class.name);
    let taken = params.iter().any(|(name, ..)| value_name(name) == own);
    params
        .into_iter()
        .map(|(name, ty, default)| Param {
            name: if name == "self" && !taken {
                own.clone()
            } else {
                value_name(&name)
            },
            ty,
            default,
        })
        .collect()
}

fn summary(class: &descriptor::Class, message: &descriptor::Message) -> String {
    let name = &message.name;
    let field = |prefixes: &[&str]| {
        prefixes
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name)
            .to_owned()
    };
    match message.kind.as_str() {
        "field_get" => format!("Reads the field `{}`", field(&["get_"])),
        "field_set" => format!("Writes the field `{}`", field(&["set_"])),
        "field_add" => format!("Adds to the field `{}`", field(&["add_to_", "add_"])),
        "field_remove" => {
            format!(
                "Removes from the field `{}`",
                field(&["remove_from_", "remove_"])
            )
        }
        "get_by_uuid" => format!("Finds the {} with this UUID", class.name),
        "get_by_name_label" => format!("Finds every {} with this name", class.name),
        "get_record" => format!("Reads the record of one {}", class.name),
        "get_all" => format!("Lists every {}", class.name),
        "get_all_where" => format!(
            "Lists every {} that a filter expression matches",
            class.name
        ),
        "get_all_records" => format!("Reads the record of every {}", class.name),
        "get_all_records_where" => {
            format!(
                "Reads the record of every {} that a filter expression matches",
                class.name
            )
        }
        "constructor" => format!("Creates a {}", class.name),
        "destructor" => format!("Destroys a {}", class.name),
        _ => format!("Calls `{}.{name}`", class.name),
    }
}

fn place(lifecycle: &[String]) -> Place {
    let state = state(lifecycle);
    let published = release_of(lifecycle, "published");
    Place {
        since: published
            .or_else(|| release_of(lifecycle, "prototyped"))
            .map(str::to_owned),
        prototyped: state == State::Prototyped,
        deprecated: (state == State::Deprecated).then(|| {
            release_of(lifecycle, "deprecated")
                .unwrap_or_default()
                .to_owned()
        }),
    }
}

/// The enums that the typed API names; those of removed items alone are left out.
fn enums(descriptor: &Descriptor, classes: &[Class]) -> Result<Vec<Enum>> {
    let mut used = BTreeSet::new();
    for class in classes {
        class
            .record
            .iter()
            .for_each(|field| mark(&field.ty, &mut used));
        for input in &class.inputs {
            input
                .fields
                .iter()
                .for_each(|field| mark(&field.ty, &mut used));
        }
        for message in &class.messages {
            mark(&message.result, &mut used);
            if let Params::Positional(params) = &message.params {
                params.iter().for_each(|param| mark(&param.ty, &mut used));
            }
        }
    }
    let known: BTreeSet<_> = descriptor
        .enums
        .iter()
        .map(|item| item.name.as_str())
        .collect();
    if let Some(unknown) = used.iter().find(|name| !known.contains(name.as_str())) {
        bail!("the enum {unknown} is used but not defined");
    }
    // Hand-written records use these two.
    let always = ["event_operation", "task_status_type"];
    Ok(descriptor
        .enums
        .iter()
        .filter(|item| used.contains(&item.name) || always.contains(&item.name.as_str()))
        .map(|item| Enum {
            wire: item.name.clone(),
            type_name: camel(&item.name),
            values: item
                .values
                .iter()
                .map(|value| (camel(value), value.clone()))
                .collect(),
        })
        .collect())
}

fn mark(ty: &Type, used: &mut BTreeSet<String>) {
    match ty {
        Type::Enum(name) => {
            used.insert(name.clone());
        }
        Type::Set(inner) | Type::Option(inner) => mark(inner, used),
        Type::Map(key, value) => {
            mark(key, used);
            mark(value, used);
        }
        _ => {}
    }
}

fn errors(descriptor: &Descriptor) -> Result<Vec<ErrorCode>> {
    Ok(descriptor
        .errors
        .iter()
        .map(|error| ErrorCode {
            variant: camel(&error.code),
            code: error.code.clone(),
            params: error.params.clone(),
        })
        .collect())
}

/// Two items of one name would be a riddle for the compiler's user; the generator says it.
fn unique(api: &Api) -> Result<()> {
    let mut types = BTreeSet::new();
    let mut declare = |name: &str| {
        if types.insert(name.to_owned()) {
            Ok(())
        } else {
            bail!("two types are called {name}")
        }
    };
    for class in &api.classes {
        declare(&class.type_name)?;
        declare(&format!("{}Api", class.type_name))?;
        declare(&format!("{}Record", class.type_name))?;
        class
            .inputs
            .iter()
            .try_for_each(|input| declare(&input.type_name))?;
        all_differ(
            &class.wire,
            class.record.iter().map(|field| field.name.as_str()),
        )?;
        all_differ(
            &class.wire,
            class.messages.iter().map(|message| message.name.as_str()),
        )?;
    }
    for item in &api.enums {
        declare(&item.type_name)?;
        let variants = item.values.iter().map(|(variant, _)| variant.as_str());
        all_differ(&item.wire, variants.chain(["Unrecognized"]))?;
    }
    let codes = api.errors.iter().map(|error| error.variant.as_str());
    all_differ("the error codes", codes.chain(["Unrecognized"]))
}

fn all_differ<'a>(owner: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            bail!("{owner} has two items called {name}");
        }
    }
    Ok(())
}
