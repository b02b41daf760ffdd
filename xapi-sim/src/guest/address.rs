//! Addresses for guests: 127.77.BLOCK.1 to .254, where each simulator owns whole blocks.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpSocket;

use super::{GuestError, PORT};

/// Hands out addresses that no other simulator on this machine uses at the same time.
///
/// A block belongs to the simulator that has bound its address .0: the kernel arbitrates, and
/// takes the claim back when the simulator ends, however it ends.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    blocks: Mutex<Vec<Block>>,
}

/// One address, given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    address: Ipv4Addr,
    from: Arc<Addresses>,
}

#[derive(Debug)]
struct Block {
    number: u8,
    _claim: TcpSocket,
    used: [bool; 256],
    /// The host number to try next. Going round keeps an address unused for as long as possible
    /// after its guest is gone, so that nobody who still remembers that guest meets another one.
    next: u8,
}

impl Addresses {
    /// Leases the asked address or any.
    pub(super) fn lease(self: &Arc<Self>, asked: Option<Ipv4Addr>) -> Result<Lease, GuestError> {
        let mut blocks = self.lock();
        let address = match asked {
            Some(address) => {
                take(&mut blocks, address).ok_or(GuestError::AddressTaken { address })?
            }
            None => match blocks.iter_mut().find_map(Block::take_any) {
                Some(address) => address,
                None => {
                    let mut block = Block::claim().ok_or(GuestError::NoAddress)?;
                    let address = block.take_any().ok_or(GuestError::NoAddress)?;
                    blocks.push(block);
                    address
                }
            },
        };
        Ok(Lease {
            address,
            from: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(blocks: &mut [Block], address: Ipv4Addr) -> Option<Ipv4Addr> {
    let [127, 77, number, host @ 1..=254] = address.octets() else {
        return None;
    };
    blocks
        .iter_mut()
        .find(|block| block.number == number)?
        .take(host)
}

impl Block {
    fn claim() -> Option<Self> {
        let first = RandomState::new().hash_one("block") as u8;
        (0..=255)
            .map(|step| first.wrapping_add(step))
            .find_map(|number| {
                let claim = bind(Ipv4Addr::new(127, 77, number, 0), false).ok()?;
                Some(Self {
                    number,
                    _claim: claim,
                    used: [false; 256],
                    next: 1,
                })
            })
    }

    fn take_any(&mut self) -> Option<Ipv4Addr> {
        let first = self.next - 1;
        (0..254).find_map(|step| self.take(((u16::from(first) + step) % 254) as u8 + 1))
    }

    fn take(&mut self, host: u8) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::new(127, 77, self.number, host);
        // Connections that the last guest at this address closed may linger; only a listener
        // stands in the way, and only listening finds it.
        let is_free = !self.used[usize::from(host)]
            && bind(address, true)
                .and_then(|socket| socket.listen(1))
                .is_ok();
        if !is_free {
            return None;
        }
        self.used[usize::from(host)] = true;
        self.next = if host == 254 { 1 } else { host + 1 };
        Some(address)
    }
}

fn bind(address: Ipv4Addr, reuse: bool) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(reuse)?;
    socket.bind(SocketAddr::V4(SocketAddrV4::new(address, PORT)))?;
    Ok(socket)
}

impl Lease {
    pub(super) fn socket_addr(&self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(self.address, PORT))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let [_, _, number, host] = self.address.octets();
        if let Some(block) = self
            .from
            .lock()
            .iter_mut()
            .find(|block| block.number == number)
        {
            block.used[usize::from(host)] = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn leases_are_distinct_across_simulators_and_blocks() {
        let (one, two) = (
            Arc::new(Addresses::default()),
            Arc::new(Addresses::default()),
        );
        let leases: Vec<_> = (0..300)
            .flat_map(|_| [one.lease(None).unwrap(), two.lease(None).unwrap()])
            .collect();
        let distinct: BTreeSet<_> = leases.iter().map(|lease| lease.address).collect();
        assert_eq!(distinct.len(), 600);
    }

    #[tokio::test]
    async fn a_given_address_is_leased_once_and_comes_back() {
        let addresses = Arc::new(Addresses::default());
        let lease = addresses.lease(None).unwrap();
        let address = lease.address;
        assert!(matches!(
            addresses.lease(Some(address)),
            Err(GuestError::AddressTaken { address: refused }) if refused == address
        ));
        drop(lease);
        assert_eq!(addresses.lease(Some(address)).unwrap().address, address);
        let foreign = Ipv4Addr::new(127, 0, 0, 1);
        assert!(addresses.lease(Some(foreign)).is_err());
    }

    #[tokio::test]
    async fn an_address_rests_before_it_is_used_again() {
        let addresses = Arc::new(Addresses::default());
        let first = addresses.lease(None).unwrap().address;
        assert_ne!(addresses.lease(None).unwrap().address, first);
    }

    #[tokio::test]
    async fn an_address_that_somebody_listens_on_is_left_alone() {
        let addresses = Arc::new(Addresses::default());
        let first = addresses.lease(None).unwrap();
        let [a, b, c, d] = first.address.octets();
        let occupied = Ipv4Addr::new(a, b, c, d + 1);
        let _other = std::net::TcpListener::bind((occupied, PORT)).unwrap();
        let second = addresses.lease(None).unwrap();
        assert_ne!(second.address, occupied);
    }
}
