//! What is measured of hosts, VMs and SRs. The numbers are made up from the names of what they measure
//! and the time, so that they are the same for whoever asks again.

use crate::failure::Failure;
use crate::value::{NULL_REF, parse_int};
use crate::world::World;

/// Something that is measured: all that is measured of it, and since when.
#[derive(Debug)]
pub(crate) struct Measured {
    /// What its names begin with: `vm:<uuid>:`.
    pub(super) prefix: String,
    pub(crate) sources: Vec<Source>,
    pub(super) since: i64,
}

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(super) kind: &'static str,
    pub(super) low: f64,
    pub(super) high: f64,
}

fn source(name: impl Into<String>, kind: &'static str, low: f64, high: f64) -> Source {
    Source {
        name: name.into(),
        kind,
        low,
        high,
    }
}

impl Measured {
    /// The number in an archive at a time.
    pub(crate) fn at(&self, source: &Source, time: i64) -> f64 {
        if time < self.since {
            return f64::NAN;
        }
        // FNV-1a over the name and the time: the same for everybody, and nothing to see in it.
        let bytes = self.prefix.bytes().chain(source.name.bytes());
        let hash = bytes
            .chain(time.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let part = (hash >> 40) as f64 / f64::from(1 << 24);
        source.low + part * (source.high - source.low)
    }
}

/// What is measured of a host, a VM or an SR.
pub(crate) fn measured(world: &World, class: &str, object: &str) -> Result<Measured, Failure> {
    let place = |host| Place { world, host };
    match class {
        "host" => place(object).measured_host(),
        "SR" => place(NULL_REF).measured_sr(object),
        _ => place(NULL_REF).measured_vm(object),
    }
}

/// What is measured on a host: itself, the VMs on it with its control domain, its SRs.
pub(super) struct Place<'w> {
    pub(super) world: &'w World,
    pub(super) host: &'w str,
}

impl Place<'_> {
    pub(super) fn measured_host(&self) -> Result<Measured, Failure> {
        let db = &self.world.db;
        let mut sources = vec![
            source("memory_total_kib", "GAUGE", 67_108_864.0, 67_108_864.0),
            source("memory_free_kib", "GAUGE", 30_000_000.0, 60_000_000.0),
            source("loadavg", "GAUGE", 0.0, 1.5),
            source("cpu_avg", "GAUGE", 0.0, 0.4),
        ];
        let cpus = db.key("host", self.host, "cpu_info", "cpu_count")?;
        let cpus = cpus.and_then(|count| parse_int(&count)).unwrap_or(1);
        sources.extend((0..cpus).map(|cpu| source(format!("cpu{cpu}"), "DERIVE", 0.0, 0.4)));
        for pif in db.list("host", self.host, "PIFs")? {
            let device = db.text("PIF", &pif, "device")?;
            for way in ["rx", "tx"] {
                let name = format!("pif_{device}_{way}");
                sources.push(source(name, "DERIVE", 0.0, 100_000.0));
            }
        }
        Ok(Measured {
            prefix: format!("host:{}:", db.text("host", self.host, "uuid")?),
            sources,
            since: 0,
        })
    }

    pub(super) fn measured_vm(&self, vm: &str) -> Result<Measured, Failure> {
        let db = &self.world.db;
        let memory = db.int("VM", vm, "memory_dynamic_max")? as f64;
        let mut sources = vec![
            source("memory", "GAUGE", memory, memory),
            source("memory_target", "GAUGE", memory, memory),
        ];
        let agent = db.text("VM", vm, "guest_metrics")?;
        if db.exists("VM_guest_metrics", &agent) {
            let free = memory / 1024.0;
            sources.push(source(
                "memory_internal_free",
                "GAUGE",
                free / 4.0,
                free / 2.0,
            ));
        }
        let cpus = db.int("VM", vm, "VCPUs_at_startup")?;
        sources.extend((0..cpus).map(|cpu| source(format!("cpu{cpu}"), "DERIVE", 0.0, 0.9)));
        for vif in db.list("VM", vm, "VIFs")? {
            let device = db.text("VIF", &vif, "device")?;
            for way in ["rx", "tx"] {
                let name = format!("vif_{device}_{way}");
                sources.push(source(name, "DERIVE", 0.0, 50_000.0));
            }
        }
        for vbd in db.list("VM", vm, "VBDs")? {
            let device = db.text("VBD", &vbd, "device")?;
            if !device.is_empty() && !db.flag("VBD", &vbd, "empty")? {
                for way in ["read", "write"] {
                    let name = format!("vbd_{device}_{way}");
                    sources.push(source(name, "DERIVE", 0.0, 1_000_000.0));
                }
            }
        }
        let metrics = db.text("VM", vm, "metrics")?;
        let started = db.text("VM_metrics", &metrics, "start_time");
        Ok(Measured {
            prefix: format!("vm:{}:", db.text("VM", vm, "uuid")?),
            sources,
            since: started
                .ok()
                .and_then(|time| crate::clock::seconds_of(&time))
                .unwrap_or(0),
        })
    }

    pub(super) fn measured_sr(&self, sr: &str) -> Result<Measured, Failure> {
        let db = &self.world.db;
        let size = db.int("SR", sr, "physical_size")? as f64;
        let used = db.int("SR", sr, "physical_utilisation")? as f64;
        Ok(Measured {
            prefix: format!("sr:{}:", db.text("SR", sr, "uuid")?),
            sources: vec![
                source("size", "GAUGE", size, size),
                source("physical_utilisation", "GAUGE", used, used),
            ],
            since: 0,
        })
    }

    /// The VMs that run here.
    pub(super) fn vms(&self) -> Result<Vec<String>, Failure> {
        let db = &self.world.db;
        let vms = db.references("VM").into_iter();
        let here = vms.filter(|vm| {
            let resident = db.text("VM", vm, "resident_on");
            resident.is_ok_and(|host| host == self.host)
        });
        Ok(here.collect())
    }

    /// The SRs that are attached here.
    pub(super) fn srs(&self) -> Result<Vec<String>, Failure> {
        let db = &self.world.db;
        let mut srs = Vec::new();
        for pbd in db.list("host", self.host, "PBDs")? {
            if db.flag("PBD", &pbd, "currently_attached")? {
                srs.push(db.text("PBD", &pbd, "SR")?);
            }
        }
        Ok(srs)
    }

    /// Those of some objects that a parameter chooses: `all`, `none` or a uuid.
    pub(super) fn chosen(&self, class: &str, objects: Vec<String>, choice: &str) -> Vec<String> {
        let is_it = |object: &String| {
            let uuid = self.world.db.text(class, object, "uuid");
            uuid.is_ok_and(|uuid| uuid == choice)
        };
        match choice {
            "all" => objects,
            "none" => Vec::new(),
            _ => objects.into_iter().filter(is_it).collect(),
        }
    }
}
