//! Which network interface a rank uses, and why.
//!
//! The choice itself is a pure function of the interface list and the routes, [`choose`]; the
//! operating system is asked by [`look_around`].

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

/// How a rank finds the interface it listens on.
///
/// As text it follows the grammar that users know from `NCCL_SOCKET_IFNAME`, with networks added:
///
/// | text | meaning |
/// |---|---|
/// | (empty) | the source address of the route to the master |
/// | `eth,ib` | names that start with `eth`, else with `ib` |
/// | `=eth0,eth1` | exactly these names |
/// | `^docker` | as if nothing were said, but for names that start with `docker` |
/// | `^=docker0` | as if nothing were said, but for exactly this name |
/// | `10.0.0.0/8` | addresses of this network |
/// | `10.0.0.7` | exactly this address |
///
/// ```
/// use allhands_transport::interface::InterfaceChoice;
///
/// let choice: InterfaceChoice = "^docker,lo".parse()?;
/// assert_eq!(choice.to_string(), "^docker,lo");
/// assert!("10.0.0.0/40".parse::<InterfaceChoice>().is_err());
/// # Ok::<(), allhands_transport::interface::InterfaceError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterfaceChoice {
    /// The source address of the route to the master; without a master, of the route outwards.
    #[default]
    Route,
    /// The first pattern that something matches wins.
    Any(Vec<Pattern>),
    /// The default choice if no pattern matches it, else the first that none matches; loopback interfaces never.
    AllBut(Vec<Pattern>),
}

/// Matches interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// Names that start with this.
    Prefix(String),
    /// Exactly this name.
    Name(String),
    /// Addresses whose first `bits` bits are those of `address`.
    Network {
        /// An address of the network.
        address: IpAddr,
        /// Bits that count, at most 32 or 128.
        bits: u8,
    },
}

impl InterfaceChoice {
    /// The interface with exactly this name.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self::Any(vec![Pattern::Name(name.to_owned())])
    }

    /// Exactly this address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self::Any(vec![Pattern::Network { address, bits }])
    }
}

impl FromStr for InterfaceChoice {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let bad = |what| InterfaceError::BadChoice { text: text.to_owned(), what };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(Self::Route);
        }
        let (excluded, rest) = match trimmed.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let (exact, rest) = match rest.strip_prefix('=') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let mut patterns = Vec::new();
        for item in rest.split(',').map(str::trim) {
            if item.is_empty() {
                return Err(bad("it names nothing between two commas"));
            }
            let network = item.split_once('/').map_or((item, None), |(a, bits)| (a, Some(bits)));
            patterns.push(match (network.0.parse::<IpAddr>(), network.1) {
                (Ok(address), bits) => {
                    let limit = if address.is_ipv4() { 32 } else { 128 };
                    let bits = bits.map_or(Ok(limit), str::parse);
                    let bits = bits.ok().filter(|bits| *bits <= limit);
                    let bits = bits.ok_or(bad("a network's length is a number up to 32 or 128"))?;
                    Pattern::Network { address, bits }
                }
                (Err(_), Some(_)) => return Err(bad("what precedes the slash is no address")),
                (Err(_), None) if exact => Pattern::Name(item.to_owned()),
                (Err(_), None) => Pattern::Prefix(item.to_owned()),
            });
        }
        Ok(if excluded { Self::AllBut(patterns) } else { Self::Any(patterns) })
    }
}

impl fmt::Display for InterfaceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, patterns) = match self {
            Self::Route => return f.write_str("the route to the master"),
            Self::Any(patterns) => ("", patterns),
            Self::AllBut(patterns) => ("^", patterns),
        };
        f.write_str(mark)?;
        if patterns.iter().any(|pattern| matches!(pattern, Pattern::Name(_))) {
            f.write_str("=")?;
        }
        for (place, pattern) in patterns.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match pattern {
                Pattern::Prefix(name) | Pattern::Name(name) => write!(f, "{comma}{name}")?,
                Pattern::Network { address, bits } => write!(f, "{comma}{address}/{bits}")?,
            }
        }
        Ok(())
    }
}

impl Pattern {
    /// Whether `nic` matches.
    #[must_use]
    pub fn matches(&self, nic: &Nic) -> bool {
        match self {
            Self::Prefix(prefix) => nic.name.starts_with(prefix.as_str()),
            Self::Name(name) => nic.name == *name,
            Self::Network { address, bits } => {
                let width = if address.is_ipv4() { 32 } else { 128 };
                let kept = width - u32::from(*bits).min(width);
                // The distance counts from the low end, where both families are aligned.
                let differing = value(*address) ^ value(nic.address);
                address.is_ipv4() == nic.address.is_ipv4()
                    && differing.checked_shr(kept).unwrap_or(0) == 0
            }
        }
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Which versions of IP may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both; the master's where there is a choice, else version 4.
    #[default]
    Any,
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// Where the ranks are, as far as the launcher says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Not said. A loopback address is taken only where nothing else is meant, and checked against the
    /// peers' hosts when the mesh forms.
    #[default]
    Unknown,
    /// All on this host.
    ThisHost,
    /// On several hosts: a loopback address cannot work.
    ManyHosts,
}

/// One address of one interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The interface's name.
    pub name: String,
    /// The interface's number on this host, which link-local addresses need.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
}

/// What a host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses, in the operating system's order.
    pub nics: Vec<Nic>,
    /// The source address of the route to the master, if there is a master and a route.
    pub to_master: Option<IpAddr>,
    /// The source address of the route to the rest of the world, if there is one.
    pub outwards: Option<IpAddr>,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How to choose.
    pub choice: InterfaceChoice,
    /// Which versions of IP.
    pub family: Family,
    /// The master's address, resolved.
    pub master: Option<IpAddr>,
    /// Where the ranks are.
    pub reach: Reach,
}

/// What was chosen, and why: part of the report at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The interface and its address.
    pub nic: Nic,
    /// Why.
    pub why: Why,
}

/// Why an interface was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// A pattern names it.
    Configured,
    /// No pattern excludes it, and no other comes first.
    NotExcluded,
    /// The master is at this address, on this host.
    MastersOwn,
    /// The route to the master starts here.
    RouteToMaster,
    /// There is no master's route to follow; the route outwards starts here.
    RouteOutwards,
    /// The master's address is a loopback address and names no host, but ranks are on several; the route
    /// outwards starts here.
    MasterIsLoopback,
    /// All ranks are on this host.
    SameHost,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::NotExcluded => "the first that is not excluded",
            Self::MastersOwn => "the master's own address",
            Self::RouteToMaster => "on the route to the master",
            Self::RouteOutwards => "on the route outwards",
            Self::MasterIsLoopback => "on the route outwards; the master's address is loopback",
            Self::SameHost => "all ranks are on this host",
        })
    }
}

/// No interface fits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// The text is not a choice.
    #[error("bad interface choice {text:?}: {what}")]
    BadChoice {
        /// The text.
        text: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The operating system does not list its interfaces.
    #[error("cannot list network interfaces: {source}")]
    List {
        /// What it said.
        source: io::Error,
    },
    /// Nothing fits.
    #[error("no interface for {choice}; this host has {}", Names(found))]
    NoMatch {
        /// What was wanted.
        choice: InterfaceChoice,
        /// What there is.
        found: Vec<Nic>,
    },
    /// Only a loopback interface fits, and ranks are or may be on other hosts.
    #[error(
        "only the loopback interface fits {choice}, but ranks are on other hosts; this host has {}",
        Names(found)
    )]
    OnlyLoopback {
        /// What was wanted.
        choice: InterfaceChoice,
        /// What there is.
        found: Vec<Nic>,
    },
}

struct Names<'a>(&'a [Nic]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, nic) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", nic.name, nic.address)?;
        }
        Ok(())
    }
}

/// Interfaces that software makes for itself; never a first choice.
const VIRTUAL: [&str; 6] = ["docker", "veth", "virbr", "br-", "cni", "podman"];

/// Chooses the address to listen on.
///
/// A loopback address is chosen only if it is named, if the launcher says that all ranks are on this
/// host, or if the master is at one; never because nothing else is left.
///
/// # Errors
/// [`InterfaceError::NoMatch`] or [`InterfaceError::OnlyLoopback`], with what there is.
pub fn choose(wish: &Wish, around: &Surroundings) -> Result<Chosen, InterfaceError> {
    let (choice, found) = (wish.choice.clone(), around.nics.clone());
    let fits = |nic: &&Nic| match wish.family {
        Family::Any => true,
        Family::V4 => nic.address.is_ipv4(),
        Family::V6 => nic.address.is_ipv6(),
    };
    let mut nics: Vec<&Nic> = around.nics.iter().filter(fits).collect();
    let wants_v6 = wish.master.is_some_and(|master| master.is_ipv6());
    // Stable: the operating system's order decides between equals.
    nics.sort_by_key(|nic| {
        let made_up = VIRTUAL.iter().any(|prefix| nic.name.starts_with(prefix));
        (is_link_local(nic.address), made_up, nic.address.is_ipv6() != wants_v6)
    });
    let chosen = |nic: &Nic, why| Chosen { nic: nic.clone(), why };
    match &wish.choice {
        InterfaceChoice::Any(patterns) => {
            let matching = |pattern: &Pattern| nics.iter().find(|nic| pattern.matches(nic));
            match patterns.iter().find_map(matching) {
                None => Err(InterfaceError::NoMatch { choice, found }),
                Some(nic) if nic.address.is_loopback() && wish.reach == Reach::ManyHosts => {
                    Err(InterfaceError::OnlyLoopback { choice, found })
                }
                Some(nic) => Ok(chosen(nic, Why::Configured)),
            }
        }
        InterfaceChoice::AllBut(patterns) => {
            let excluded = |nic: &Nic| patterns.iter().any(|pattern| pattern.matches(nic));
            let outside = |nic: &Nic| !nic.address.is_loopback();
            let usable = |chosen: &Chosen| !excluded(&chosen.nic) && outside(&chosen.nic);
            if let Some(on_route) = follow_route(wish, around, &nics).filter(usable) {
                return Ok(on_route);
            }
            nics.retain(|nic| !excluded(nic));
            match nics.iter().find(|nic| outside(nic)) {
                Some(nic) => Ok(chosen(nic, Why::NotExcluded)),
                None if nics.is_empty() => Err(InterfaceError::NoMatch { choice, found }),
                None if wish.reach == Reach::ThisHost => Ok(chosen(nics[0], Why::SameHost)),
                None => Err(InterfaceError::OnlyLoopback { choice, found }),
            }
        }
        InterfaceChoice::Route => follow_route(wish, around, &nics).ok_or(if nics.is_empty() {
            InterfaceError::NoMatch { choice, found }
        } else {
            InterfaceError::OnlyLoopback { choice, found }
        }),
    }
}

fn follow_route(wish: &Wish, around: &Surroundings, nics: &[&Nic]) -> Option<Chosen> {
    let at =
        |address: Option<IpAddr>| nics.iter().copied().find(|nic| Some(nic.address) == address);
    let loopback = || nics.iter().copied().find(|nic| nic.address.is_loopback());
    let outside = |nic: &&Nic| !nic.address.is_loopback();
    let outwards = || at(around.outwards).or_else(|| nics.iter().copied().find(outside));
    let (nic, why) = match (wish.master, wish.reach) {
        (Some(master), Reach::ManyHosts) if master.is_loopback() => {
            (outwards()?, Why::MasterIsLoopback)
        }
        // Any address of 127.0.0.0/8 may stand for the host; the interface lists only the first.
        (Some(master), _) if master.is_loopback() => {
            (at(Some(master)).or_else(loopback)?, Why::SameHost)
        }
        (Some(master), _) => match at(Some(master)) {
            Some(nic) => (nic, Why::MastersOwn),
            None => (at(around.to_master).filter(outside)?, Why::RouteToMaster),
        },
        (None, Reach::ThisHost) => (loopback().or_else(outwards)?, Why::SameHost),
        (None, Reach::Unknown | Reach::ManyHosts) => (outwards()?, Why::RouteOutwards),
    };
    Some(Chosen { nic: nic.clone(), why })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Asks the operating system for its interfaces, and for the routes that [`choose`] follows. No packet
/// is sent.
///
/// # Errors
/// [`InterfaceError::List`] if the interfaces cannot be listed.
pub fn look_around(wish: &Wish) -> Result<Surroundings, InterfaceError> {
    let listed = if_addrs::get_if_addrs().map_err(|source| InterfaceError::List { source })?;
    let usable = |nic: &if_addrs::Interface| {
        use if_addrs::IfOperStatus::{Down, LowerLayerDown, NotPresent};
        !matches!(nic.oper_status, Down | LowerLayerDown | NotPresent)
    };
    let nics = listed
        .into_iter()
        .filter(usable)
        .map(|nic| Nic { address: nic.ip(), index: nic.index.unwrap_or(0), name: nic.name })
        .collect();
    // Addresses of documentation networks: no host has them, so the default route answers.
    let nowhere = match (wish.family, wish.master) {
        (Family::V6, _) | (Family::Any, Some(IpAddr::V6(_))) => {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
        }
        _ => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    };
    Ok(Surroundings {
        nics,
        to_master: wish.master.and_then(route_to),
        outwards: route_to(nowhere),
    })
}

/// The source address of the route to `target`: connecting a UDP socket only looks the route up.
fn route_to(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // The discard port; it is never used.
    socket.connect(SocketAddr::new(target, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|source| !source.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, address: &str) -> Nic {
        Nic { name: name.to_owned(), index: 1, address: address.parse().expect("an address") }
    }

    fn host() -> Surroundings {
        Surroundings {
            nics: vec![
                nic("lo", "127.0.0.1"),
                nic("lo", "::1"),
                nic("docker0", "172.17.0.1"),
                nic("eth0", "192.0.2.2"),
                nic("eth0", "fe80::1"),
                nic("eth0", "fd00::2"),
                nic("ib0", "10.1.0.2"),
            ],
            to_master: None,
            outwards: Some("192.0.2.2".parse().expect("an address")),
        }
    }

    fn pick(choice: &str, change: impl FnOnce(&mut Wish, &mut Surroundings)) -> String {
        let mut wish = Wish { choice: choice.parse().expect("a choice"), ..Wish::default() };
        let mut around = host();
        change(&mut wish, &mut around);
        match choose(&wish, &around) {
            Ok(Chosen { nic, why }) => format!("{} {}: {why}", nic.name, nic.address),
            Err(error) => error.to_string(),
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn patterns_follow_the_known_grammar() {
        let plain = |_: &mut Wish, _: &mut Surroundings| {};
        assert_eq!(pick("ib,eth", plain), "ib0 10.1.0.2: configured");
        assert_eq!(pick("=eth0", plain), "eth0 192.0.2.2: configured");
        assert_eq!(pick("10.0.0.0/8", plain), "ib0 10.1.0.2: configured");
        assert_eq!(pick("fd00::/8", plain), "eth0 fd00::2: configured");
        assert_eq!(pick("0.0.0.0/0", plain), "lo 127.0.0.1: configured");
        assert_eq!(pick("^eth", plain), "ib0 10.1.0.2: the first that is not excluded");
        assert_eq!(pick("^=eth0,ib0", plain), "docker0 172.17.0.1: the first that is not excluded");
        assert_eq!(pick("lo", plain), "lo 127.0.0.1: configured");
        let v6 = |wish: &mut Wish, _: &mut Surroundings| wish.family = Family::V6;
        assert_eq!(pick("eth0", v6), "eth0 fd00::2: configured");
        assert_eq!(
            pick("=eth", plain),
            "no interface for =eth; this host has lo (127.0.0.1), lo (::1), docker0 (172.17.0.1), \
             eth0 (192.0.2.2), eth0 (fe80::1), eth0 (fd00::2), ib0 (10.1.0.2)"
        );
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        for text in ["eth0,,ib0", "10.0.0.0/33", "eth0/8", "^", "fd00::/129", "10.0.0.0/x"] {
            let error = text.parse::<InterfaceChoice>().expect_err(text);
            assert!(matches!(error, InterfaceError::BadChoice { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn the_route_to_the_master_decides() {
        let via_ib = |wish: &mut Wish, around: &mut Surroundings| {
            wish.master = ip("10.9.9.9");
            around.to_master = ip("10.1.0.2");
        };
        assert_eq!(pick("", via_ib), "ib0 10.1.0.2: on the route to the master");
        let own = |wish: &mut Wish, _: &mut Surroundings| wish.master = ip("10.1.0.2");
        assert_eq!(pick("", own), "ib0 10.1.0.2: the master's own address");
        assert_eq!(pick("", |_, _| {}), "eth0 192.0.2.2: on the route outwards");
    }

    #[test]
    fn what_is_not_excluded_is_chosen_by_the_route_too() {
        let via_ib = |wish: &mut Wish, around: &mut Surroundings| {
            wish.master = ip("10.9.9.9");
            around.to_master = ip("10.1.0.2");
        };
        assert_eq!(pick("^docker,lo", via_ib), "ib0 10.1.0.2: on the route to the master");
        assert_eq!(pick("^ib", via_ib), "eth0 192.0.2.2: the first that is not excluded");
        let local = |wish: &mut Wish, _: &mut Surroundings| wish.master = ip("127.0.0.1");
        assert_eq!(pick("^docker", local), "eth0 192.0.2.2: the first that is not excluded");
    }

    #[test]
    fn loopback_is_never_a_silent_way_out() {
        let local = |wish: &mut Wish, _: &mut Surroundings| wish.master = ip("127.0.1.1");
        assert_eq!(pick("", local), "lo 127.0.0.1: all ranks are on this host");
        let many = |wish: &mut Wish, _: &mut Surroundings| {
            wish.master = ip("127.0.1.1");
            wish.reach = Reach::ManyHosts;
        };
        assert_eq!(
            pick("", many),
            "eth0 192.0.2.2: on the route outwards; the master's address is loopback"
        );
        let alone = |wish: &mut Wish, around: &mut Surroundings| {
            wish.master = ip("10.9.9.9");
            around.nics.truncate(2);
            around.outwards = None;
        };
        assert_eq!(
            pick("", alone),
            "only the loopback interface fits the route to the master, but ranks are on other hosts; \
             this host has lo (127.0.0.1), lo (::1)"
        );
        assert!(pick("^eth", alone).starts_with("only the loopback interface fits ^eth"));
        let named = |wish: &mut Wish, _: &mut Surroundings| wish.reach = Reach::ManyHosts;
        assert!(pick("=lo", named).starts_with("only the loopback interface fits =lo"));
        let here = |wish: &mut Wish, _: &mut Surroundings| wish.reach = Reach::ThisHost;
        assert_eq!(pick("", here), "lo 127.0.0.1: all ranks are on this host");
    }

    #[test]
    fn networks_match_by_their_leading_bits() {
        let matches = |network: &str, address: &str| {
            let InterfaceChoice::Any(patterns) = network.parse().expect("a network") else {
                panic!("{network} is a plain pattern");
            };
            patterns[0].matches(&nic("x", address))
        };
        assert!(matches("10.0.0.0/8", "10.255.1.2"));
        assert!(!matches("10.0.0.0/8", "11.0.0.1"));
        assert!(!matches("::/0", "10.0.0.1"));
        assert!(matches("::/0", "fe80::1"));
        assert!(matches("10.0.0.7", "10.0.0.7"));
        assert!(!matches("10.0.0.7", "10.0.0.6"));
    }

    #[test]
    fn this_host_can_be_asked() {
        let around = look_around(&Wish::default()).expect("interfaces are listed");
        assert!(around.nics.iter().any(|nic| nic.address.is_loopback()), "{around:?}");
        let master = ip("127.0.0.1");
        let wish = Wish { master, ..Wish::default() };
        let around = look_around(&wish).expect("interfaces are listed");
        assert_eq!(around.to_master, master);
        assert_eq!(choose(&wish, &around).expect("a loopback").why, Why::SameHost);
    }
}
