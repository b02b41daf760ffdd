use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_vm_core::{Backend, BackendConfig, Error, ErrorKind, LuaVm, Result, VmId};
use tokio::sync::OnceCell;

use crate::group;
use crate::interpreter::Interpreter;
use crate::place::Place;
use crate::{BasicConfig, BasicVm};

/// Makes VMs of type `basic`.
#[derive(Debug)]
pub struct BasicBackend {
    config: BasicConfig,
    interpreter: OnceCell<Arc<Interpreter>>,
}

impl BasicBackend {
    /// Makes a backend. It looks at the machine when the first VM is created.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] and names all problems of the configuration at once.
    pub fn new(config: BasicConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            interpreter: OnceCell::new(),
        })
    }

    /// Makes a VM, stopped. [`Backend::create`] does the same behind a trait object.
    ///
    /// # Errors
    /// Fails when there is nothing to run Lua with, or no place for the VM's directory.
    ///
    /// # Cancel safety
    /// After a dropped future the VM's directory is removed in the background.
    pub async fn create_vm(&self, id: VmId) -> Result<BasicVm> {
        let config = &self.config;
        // The programs of the VM start elsewhere, and get paths below it.
        let base = config.directory.clone().unwrap_or_else(std::env::temp_dir);
        let base = std::path::absolute(&base).unwrap_or(base);
        let interpreter = self
            .interpreter
            .get_or_try_init(|| async {
                let base = base.clone();
                in_background(move || {
                    Place::sweep(&base);
                    Ok(())
                })
                .await?;
                Interpreter::find(config).await.map(Arc::new)
            })
            .await
            .map_err(|error| about(error, &id))?;
        let place = in_background({
            let base = base.clone();
            let groups = interpreter.groups().map(Path::to_owned);
            move || {
                if let Some(groups) = &groups {
                    group::sweep(groups);
                }
                Place::create(&base, groups.as_deref())
            }
        })
        .await
        .map_err(|error| about(error, &id))?;
        let interpreter = Arc::clone(interpreter);
        BasicVm::new(id.clone(), interpreter, place, config).map_err(|error| about(error, &id))
    }
}

/// Does what the file system may make wait.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            let message = "a background task ended early";
            Err(Error::new(ErrorKind::Internal, message).with_source(error))
        })
}

fn about(error: Error, id: &VmId) -> Error {
    error.with_operation("create").with_vm(id)
}

#[async_trait]
impl Backend for BasicBackend {
    fn vm_type(&self) -> &'static str {
        BasicConfig::VM_TYPE
    }

    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        Ok(Arc::new(self.create_vm(id).await?))
    }
}
