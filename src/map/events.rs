//! What a run tells: what goes on, and in the end where the time went.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// What goes on in a run. Numbers of shards count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
pub enum MapEvent {
    /// The inputs were read and cut.
    Split {
        /// How many shards there are.
        shards: usize,
        /// Those of them that an earlier run has done.
        done: usize,
        /// How many records, or pairs, all shards have.
        records: u64,
        /// Their size in bytes, unpacked.
        bytes: u64,
    },
    /// A VM was made, with rocks and files.
    Ready {
        /// The VM.
        vm: String,
        /// How long that took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// A VM could not be made, and the others go on without it.
    Left {
        /// The VM.
        vm: String,
        /// Why.
        reason: String,
    },
    /// A shard was given to a VM.
    Started {
        /// The shard.
        shard: usize,
        /// The VM.
        vm: String,
    },
    /// The results of a shard are here.
    Finished {
        /// The shard.
        shard: usize,
        /// The VM.
        vm: String,
        /// How many are done now.
        done: usize,
        /// How many there are.
        of: usize,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// A shard failed, and is given to another VM.
    Retried {
        /// The shard; `None`: the program that gathers.
        shard: Option<usize>,
        /// The VM in which it failed.
        vm: String,
        /// Why.
        reason: String,
        /// Whether the VM is given up, too.
        lost: bool,
    },
    /// What a program wrote on standard error, the end of it when it was much.
    Said {
        /// The shard; `None`: the program that gathers.
        shard: Option<usize>,
        /// The text.
        text: String,
    },
    /// All shards are done, and the results are gathered.
    Gathering,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl MapEvent {
    /// What a shard is called, or what gathers the results.
    pub(crate) fn name(shard: Option<usize>) -> String {
        match shard {
            Some(number) => format!("shard {number}"),
            None => "the reduce program".to_owned(),
        }
    }
}

impl fmt::Display for MapEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split {
                shards,
                done,
                records,
                bytes,
            } => {
                write!(f, "{records} records, {bytes} bytes, in {shards} shards")?;
                match done {
                    0 => Ok(()),
                    done => write!(f, ", {done} of which are done"),
                }
            }
            Self::Ready { vm, took } => write!(f, "{vm} is ready after {}", time(*took)),
            Self::Left { vm, reason } => write!(f, "{vm} is left out: {reason}"),
            Self::Started { shard, vm } => write!(f, "shard {shard} begins in {vm}"),
            Self::Finished {
                shard,
                vm,
                done,
                of,
                took,
            } => {
                let took = time(*took);
                write!(f, "[{done}/{of}] shard {shard} done in {vm} after {took}")
            }
            Self::Retried {
                shard,
                vm,
                reason,
                lost,
            } => {
                write!(
                    f,
                    "{} failed in {vm} and is tried elsewhere: {reason}",
                    Self::name(*shard)
                )?;
                match lost {
                    true => write!(f, "; {vm} is given up"),
                    false => Ok(()),
                }
            }
            Self::Said { shard, text } => {
                write!(f, "{} says: {}", Self::name(*shard), text.trim_end())
            }
            Self::Gathering => f.write_str("gathering the results"),
        }
    }
}

/// Where the time of a run went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Times {
    /// Reading and cutting the inputs.
    #[serde(serialize_with = "seconds")]
    pub split: Duration,
    /// From then on until the last shard was done, the making of the VMs included.
    #[serde(serialize_with = "seconds")]
    pub shards: Duration,
    /// Gathering the results.
    #[serde(serialize_with = "seconds")]
    pub gather: Duration,
    /// All of it.
    #[serde(serialize_with = "seconds")]
    pub total: Duration,
    /// The VMs, one that replaced another together with that.
    pub vms: Vec<VmTimes>,
}

/// Where the time of a VM went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct VmTimes {
    /// Its number among the VMs of the run, from 1.
    pub number: usize,
    /// The VM; the last, where it was replaced.
    pub vm: String,
    /// How many shards it has done.
    pub shards: u64,
    /// Until it was made and started.
    #[serde(serialize_with = "seconds")]
    pub make: Duration,
    /// Installing rocks and copying files.
    #[serde(serialize_with = "seconds")]
    pub stage: Duration,
    /// From giving it a shard until its program had ended, for all shards that were done.
    #[serde(serialize_with = "seconds")]
    pub run: Duration,
    /// Reading records and writing results on this machine, mostly while programs ran.
    #[serde(serialize_with = "seconds")]
    pub transfer: Duration,
    /// Waiting for something to do.
    #[serde(serialize_with = "seconds")]
    pub wait: Duration,
    /// What failed and had to be done again.
    #[serde(serialize_with = "seconds")]
    pub lost: Duration,
}

impl fmt::Display for Times {
    /// A table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "VM", "shards", "make", "stage", "run", "transfer", "wait", "lost"
        )?;
        for vm in &self.vms {
            write!(f, "{:<12}{:>8}", vm.vm, vm.shards)?;
            for part in [vm.make, vm.stage, vm.run, vm.transfer, vm.wait, vm.lost] {
                write!(f, "{:>10}", time(part))?;
            }
            writeln!(f)?;
        }
        let (split, shards, gather) = (time(self.split), time(self.shards), time(self.gather));
        let total = time(self.total);
        write!(
            f,
            "split {split}, shards {shards}, gather {gather}, total {total}"
        )
    }
}

/// A time for people.
fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 0.9995 => format!("{:.0} ms", short * 1000.0),
        short if short < 99.95 => format!("{short:.1} s"),
        long => format!("{long:.0} s"),
    }
}
