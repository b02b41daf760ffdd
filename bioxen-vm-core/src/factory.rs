use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::{Backend, BackendConfig, ConfigProblem, Error, ErrorKind, LuaVm, Result, VmId};

type Open = fn(Value) -> Result<Arc<dyn Backend>>;

/// What is done with a type.
#[derive(Clone, Copy)]
struct Type {
    open: Open,
    check: fn(&Value) -> Vec<ConfigProblem>,
}

/// Knows the VM types of this build by name, and opens their backends.
///
/// A factory is a value: nothing registers itself anywhere, and two factories do not disturb each
/// other.
#[derive(Clone, Default)]
pub struct VmFactory {
    types: BTreeMap<&'static str, Type>,
    /// Types that exist but are not compiled in, with the feature that adds each.
    missing: BTreeMap<&'static str, &'static str>,
}

impl VmFactory {
    /// Makes a factory that knows no type.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a type. A later one of the same name replaces an earlier one.
    #[must_use]
    pub fn with<C: BackendConfig>(mut self) -> Self {
        self.missing.remove(C::VM_TYPE);
        let check = C::check;
        let open = open::<C>;
        self.types.insert(C::VM_TYPE, Type { open, check });
        self
    }

    /// Tells of a type that this build does not have, and of the feature that adds it.
    #[must_use]
    pub fn without(mut self, vm_type: &'static str, feature: &'static str) -> Self {
        if !self.types.contains_key(vm_type) {
            self.missing.insert(vm_type, feature);
        }
        self
    }

    /// The names of the types that can be opened, sorted.
    pub fn vm_types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.types.keys().copied()
    }

    /// Opens the backend of a type with a configuration; `Value::Null` is the default one.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] when the type is unknown or not compiled in, and with
    /// [`ErrorKind::Config`] when the configuration is wrong.
    pub fn open(&self, vm_type: &str, config: Value) -> Result<Arc<dyn Backend>> {
        match self.types.get(vm_type) {
            Some(of_type) => (of_type.open)(config),
            None => Err(self.unknown(vm_type)),
        }
    }

    /// All that is wrong with a configuration of a type; nothing when [`open`](Self::open) would
    /// take it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] when the type is unknown or not compiled in.
    pub fn check(&self, vm_type: &str, config: &Value) -> Result<Vec<ConfigProblem>> {
        match self.types.get(vm_type) {
            Some(of_type) => Ok((of_type.check)(config)),
            None => Err(self.unknown(vm_type)),
        }
    }

    /// Opens the backend of a type and makes one VM with it, stopped.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`Backend::create`].
    pub async fn create_vm(
        &self,
        vm_type: &str,
        id: impl Into<String>,
        config: Value,
    ) -> Result<Arc<dyn LuaVm>> {
        let id = VmId::new(id)?;
        self.open(vm_type, config)?.create(id).await
    }

    fn unknown(&self, vm_type: &str) -> Error {
        let available = if self.types.is_empty() {
            "none".to_owned()
        } else {
            self.types.keys().copied().collect::<Vec<_>>().join(", ")
        };
        let message = match self.missing.get(vm_type) {
            Some(feature) => format!(
                "this build has no VM type {vm_type:?}; build it with the feature {feature:?} \
                 (types in this build: {available})"
            ),
            None => format!("unknown VM type {vm_type:?}; types in this build: {available}"),
        };
        Error::new(ErrorKind::Unsupported, message)
    }
}

fn open<C: BackendConfig>(config: Value) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(C::from_value(config)?.build()?))
}

impl fmt::Debug for VmFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmFactory")
            .field("types", &self.types.keys())
            .field("missing", &self.missing)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_refused_with_the_list_of_known_ones() {
        let error = VmFactory::new().open("qemu", Value::Null).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "unknown VM type \"qemu\"; types in this build: none"
        );
    }

    #[test]
    fn a_type_that_is_not_compiled_in_names_its_feature() {
        let factory = VmFactory::new().without("xcpng", "xcpng");
        let error = factory.open("xcpng", Value::Null).unwrap_err();
        assert!(
            error.to_string().contains("with the feature \"xcpng\""),
            "{error}"
        );
    }
}
