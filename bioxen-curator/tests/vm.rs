//! Packages of VMs of a manager.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use bioxen_curator::{Error, LuaVmPackages, PackageInstaller, RocksServer};
use bioxen_vm_core::testing::EchoConfig;
use bioxen_vm_core::{
    Backend, ErrorKind, LuaVm, Outcome, PackageSite, Result, Script, Value, VmFactory, VmId,
    VmInfo, VmManager, VmState,
};
use support::{Source, World};

/// Makes VMs that have nothing but a tree of packages.
#[derive(Debug)]
struct Shelves(PackageSite);

#[derive(Debug)]
struct Shelf {
    id: VmId,
    site: PackageSite,
}

#[async_trait]
impl Backend for Shelves {
    fn vm_type(&self) -> &'static str {
        "shelf"
    }

    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        let site = self.0.clone();
        Ok(Arc::new(Shelf { id, site }))
    }
}

#[async_trait]
impl LuaVm for Shelf {
    fn id(&self) -> &VmId {
        &self.id
    }

    fn vm_type(&self) -> &'static str {
        "shelf"
    }

    async fn info(&self) -> Result<VmInfo> {
        Ok(VmInfo::new(self.id.clone(), "shelf", VmState::Running))
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }

    async fn execute(&self, _: Script) -> Result<Outcome> {
        Err(bioxen_vm_core::Error::new(
            ErrorKind::Unsupported,
            "it runs nothing",
        ))
    }

    async fn package_site(&self) -> Result<PackageSite> {
        Ok(self.site.clone())
    }

    async fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

fn manager(world: &World) -> VmManager {
    VmManager::new(VmFactory::new().with::<EchoConfig>())
        .with_backend(Arc::new(Shelves(world.site("5.4"))))
}

#[tokio::test]
async fn packages_are_installed_by_the_id_and_type_of_the_vm() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    let manager = Arc::new(manager(&world));
    manager
        .create_vm("lab", "shelf", Value::Null)
        .await
        .unwrap();
    manager
        .create_vm("echo", "echo", Value::Null)
        .await
        .unwrap();
    let installer = PackageInstaller::new(Arc::clone(&manager))
        .with_servers([RocksServer::Directory(world.rocks())]);

    let report = installer
        .install_package_in_vm("alpha", "lab", "shelf")
        .await
        .unwrap();
    assert_eq!(report.to_string(), "installed alpha 1.0-1");

    let error = installer
        .install_package_in_vm("alpha", "lab", "xcpng")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "VM lab is of type \"shelf\", not \"xcpng\"; name its type, or another VM"
    );
    let error = installer
        .install_package_in_vm("alpha", "nobody", "shelf")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = installer
        .install_package_in_vm("alpha", "echo", "echo")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Vm { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let core: bioxen_vm_core::Error = error.into();
    assert_eq!(core.kind(), ErrorKind::Unsupported);
    assert_eq!(
        core.to_string(),
        "the packages of VM echo cannot be reached"
    );
}

#[tokio::test]
async fn a_vm_installs_packages_itself() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    let manager = manager(&world);
    let vm = manager
        .create_vm("lab", "shelf", Value::Null)
        .await
        .unwrap();
    let curator = vm
        .curator()
        .await
        .unwrap()
        .with_servers([RocksServer::Directory(world.rocks())]);
    curator.install_package("alpha").await.unwrap();
    // It is there already, so that no server is asked.
    let report = vm.install_package("alpha").await.unwrap();
    assert!(report.unchanged());
}
