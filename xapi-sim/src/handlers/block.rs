//! Disks as the host itself uses them: attached to its control domain for as long as it reads or
//! writes them, so that others find them in use.

use std::sync::Arc;

use super::Request;
use crate::classes::{self, vbd, vdi};
use crate::failure::Failure;
use crate::value::Value;
use crate::world::{Shared, World};

/// A disk that is attached to the control domain of a host until this is dropped.
pub(super) struct Attached {
    shared: Arc<Shared>,
    vbd: String,
    /// How many bytes the disk has.
    pub(super) size: u64,
}

impl Attached {
    /// Attaches a disk.
    ///
    /// # Errors
    ///
    /// What `VBD.plug` would answer: `VDI_IN_USE` above all.
    pub(super) fn new(request: &Request, vdi: &str, writes: bool) -> Result<Attached, Failure> {
        Attached::to_host(&request.shared, &request.host, vdi, writes)
    }

    /// The same without a request.
    pub(super) fn to_host(
        shared: &Arc<Shared>,
        host: &str,
        vdi: &str,
        writes: bool,
    ) -> Result<Attached, Failure> {
        let (vbd, size) = shared.with(|world| attach(world, host, vdi, writes))?;
        Ok(Attached {
            shared: Arc::clone(shared),
            vbd,
            size: u64::try_from(size).unwrap_or(0),
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.shared.with(|world| {
            let vdi = world.db.text("VBD", &self.vbd, "VDI");
            // It was made by us; nobody else removes a device of the control domain in use.
            let _ = vbd::remove(&mut world.db, &self.vbd);
            if let Ok(vdi) = vdi {
                vdi::refresh(world, &vdi);
            }
        });
    }
}

fn attach(
    world: &mut World,
    host: &str,
    vdi: &str,
    writes: bool,
) -> Result<(String, i64), Failure> {
    let size = world.db.int("VDI", vdi, "virtual_size")?;
    let domain = world.db.text("host", host, "control_domain")?;
    let device = classes::vm::free_vbd_devices(world, &domain)?.next();
    let device = device.unwrap_or_default().to_string();
    let values = vec![
        ("VM", Value::String(domain)),
        ("VDI", Value::from(vdi)),
        ("device", Value::String(vbd::linux_name(&device))),
        ("userdevice", Value::String(device)),
        ("bootable", Value::Bool(false)),
        ("mode", Value::from(if writes { "RW" } else { "RO" })),
        ("type", Value::from("Disk")),
        ("unpluggable", Value::Bool(true)),
        ("empty", Value::Bool(false)),
    ];
    let vbd = vbd::add(world, values)?;
    if let Err(failure) = vbd::check_sharing(world, &vbd) {
        vbd::remove(&mut world.db, &vbd)?;
        vdi::refresh(world, vdi);
        return Err(failure);
    }
    world.db.set("VBD", &vbd, "currently_attached", true)?;
    vdi::refresh(world, vdi);
    Ok((vbd, size))
}
