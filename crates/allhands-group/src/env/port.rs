//! The port of a store that no launcher serves and no variable names.

/// The first of the ports for jobs with a name.
const FIRST: u16 = 20_000;

/// How many there are: a prime, so that ids with a common stride do not share a few ports. They end below torch's own
/// (29400, 29500), Kubernetes' (from 30000) and those that Linux gives to connections (from 32768): a port in use for
/// anything else would be a job that does not start.
const COUNT: u16 = 9_391;

/// The port of jobs without a name, which is torch's.
pub(super) const UNNAMED: u16 = 29_500;

/// The port for a job.
///
/// Every rank knows the job's id and computes the same; two jobs that share a host rarely do. Schedulers count jobs,
/// so a leading number is counted on from: a host would have to hold jobs whose numbers are 9 391 apart.
pub(super) fn of_job(id: &str) -> u16 {
    let digits = id.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = match id[..digits].parse::<u64>() {
        Ok(number) => (number, &id[digits..]),
        Err(_) => (0, id),
    };
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = u64::from(rest.bytes().fold(0x811C_9DC5, fold));
    let place = (number % u64::from(COUNT) + hash % u64::from(COUNT)) % u64::from(COUNT);
    // Below `COUNT`, which is a `u16`.
    FIRST + place as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_in_their_range_and_those_of_neighbours_differ() {
        let jobs = (0..9_391).map(|job| of_job(&format!("{}.0", 1_000_000 + job)));
        let ports: BTreeSet<u16> = jobs.collect();
        assert_eq!((ports.len(), *ports.first().unwrap()), (9_391, 20_000));
        assert!(*ports.last().unwrap() < 29_400);
        let steps: BTreeSet<u16> = (0..100).map(|step| of_job(&format!("7.{step}"))).collect();
        assert!(steps.len() > 95, "{}", steps.len());
        // Open MPI 4 counts in steps of 65536.
        let families = (0..1_000u32).map(|family| of_job(&(family << 16 | 1).to_string()));
        assert_eq!(families.collect::<BTreeSet<_>>().len(), 1_000);
        for id in ["", "prterun-vm-21168@1", "ƒ2CbYg8w", "99999999999999999999999999", "七"] {
            assert!((20_000..29_391).contains(&of_job(id)), "{id}");
        }
    }
}
