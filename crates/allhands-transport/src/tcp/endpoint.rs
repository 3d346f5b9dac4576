//! Where a rank listens, as bytes for a store.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use allhands_wire::HostHash;
use smallvec::SmallVec;

use crate::error::TransportError;

/// Addresses one endpoint names; a dialler tries them in turn.
pub const ADDRESSES_MAX: usize = 4;

/// The longest encoded endpoint, in bytes.
pub const ENDPOINT_LEN_MAX: usize = HEAD_LEN + ADDRESSES_MAX * V6_LEN;

const FORMAT: u8 = 1;
/// Format, number of addresses, host.
const HEAD_LEN: usize = 2 + 8;
/// Family, port, address.
const V4_LEN: usize = 1 + 2 + 4;
const V6_LEN: usize = 1 + 2 + 16;

/// Where a rank listens and which host it is on. Ranks exchange these through a store.
///
/// ```
/// use allhands_transport::tcp::Endpoint;
/// use allhands_wire::HostHash;
///
/// let here = Endpoint::new(HostHash::of(b"boot id"), &["10.0.0.7:4000".parse()?])?;
/// let bytes = here.encode();
/// assert_eq!(Endpoint::decode(&bytes)?, here);
/// assert_eq!(here.to_string(), "10.0.0.7:4000");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: HostHash,
    addresses: SmallVec<[SocketAddr; 1]>,
}

impl Endpoint {
    /// An endpoint on `host` that listens on `addresses`, best first. The scope of a link-local address
    /// means something on one host only, and is dropped.
    ///
    /// # Errors
    /// [`TransportError::BadEndpoint`] if there is no address, or more than [`ADDRESSES_MAX`].
    pub fn new(host: HostHash, addresses: &[SocketAddr]) -> Result<Self, TransportError> {
        match addresses.len() {
            0 => Err(bad("it names no address")),
            1..=ADDRESSES_MAX => {
                Ok(Self { host, addresses: addresses.iter().map(without_scope).collect() })
            }
            _ => Err(bad("it names too many addresses")),
        }
    }

    /// The addresses, best first; at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Which boot of which host the rank is on.
    pub fn host(&self) -> HostHash {
        self.host
    }

    /// The endpoint as bytes, at most [`ENDPOINT_LEN_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENDPOINT_LEN_MAX);
        out.push(FORMAT);
        out.push(self.addresses.len() as u8);
        out.extend_from_slice(&self.host.0);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend_from_slice(&address.port().to_le_bytes());
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend_from_slice(&address.port().to_le_bytes());
                    out.extend_from_slice(&ip.octets());
                }
            }
        }
        out
    }

    /// Reads what [`Endpoint::encode`] wrote.
    ///
    /// # Errors
    /// [`TransportError::BadEndpoint`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, TransportError> {
        let (head, mut rest) = bytes.split_at_checked(HEAD_LEN).ok_or(bad("it is too short"))?;
        if head[0] != FORMAT {
            return Err(bad("its format is unknown; run one version everywhere"));
        }
        let count = usize::from(head[1]);
        let host = HostHash(std::array::from_fn(|i| head[2 + i]));
        let mut addresses = SmallVec::<[SocketAddr; ADDRESSES_MAX]>::new();
        for _ in 0..count.min(ADDRESSES_MAX + 1) {
            let len = match rest.first() {
                Some(4) => V4_LEN,
                Some(6) => V6_LEN,
                _ => return Err(bad("an address has no family")),
            };
            let (address, tail) = rest.split_at_checked(len).ok_or(bad("it is too short"))?;
            rest = tail;
            let ip: IpAddr = if len == V4_LEN {
                Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| address[3 + i])).into()
            } else {
                Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| address[3 + i])).into()
            };
            addresses.push(SocketAddr::new(ip, u16::from_le_bytes([address[1], address[2]])));
        }
        if !rest.is_empty() {
            return Err(bad("bytes follow its last address"));
        }
        Self::new(host, &addresses)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, address) in self.addresses.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

fn without_scope(address: &SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
        v4 => *v4,
    }
}

fn bad(what: &'static str) -> TransportError {
    TransportError::BadEndpoint { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(addresses: &[SocketAddr], host: [u8; 8]) -> Endpoint {
        Endpoint::new(HostHash(host), addresses).expect("one to four addresses")
    }

    proptest! {
        #[test]
        fn endpoints_survive_the_store(
            addresses in proptest::collection::vec(any::<SocketAddr>(), 1..=ADDRESSES_MAX),
            host in any::<[u8; 8]>(),
        ) {
            let sent = endpoint(&addresses, host);
            let bytes = sent.encode();
            prop_assert!(bytes.len() <= ENDPOINT_LEN_MAX);
            prop_assert_eq!(Endpoint::decode(&bytes).expect("it was encoded"), sent);
            for cut in 0..bytes.len() {
                prop_assert!(Endpoint::decode(&bytes[..cut]).is_err());
            }
            let longer = [&bytes[..], &[4]].concat();
            prop_assert!(Endpoint::decode(&longer).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(endpoint) = Endpoint::decode(&bytes) {
                prop_assert!(Endpoint::decode(&endpoint.encode()).expect("it is one") == endpoint);
            }
        }
    }

    #[test]
    fn the_number_of_addresses_has_limits() {
        let address: SocketAddr = "10.0.0.1:1".parse().expect("an address");
        assert!(Endpoint::new(HostHash([0; 8]), &[]).is_err());
        assert!(Endpoint::new(HostHash([0; 8]), &[address; ADDRESSES_MAX + 1]).is_err());
    }
}
