//! The numbers of instances, by package: given once, kept for packages that run or ran of late.
//!
//! Pure. Bounded: any number of packages that come and go leave the numbers of a few behind. A package that comes back
//! after all of these gets new numbers; its predictions keep their ids, which follow from their content.

use std::collections::HashMap;

use dunlin_model_package::Digest;

use crate::prediction::{InstanceId, InstanceIdentity};

/// Packages of one model whose numbers are kept while they do not run: a rollback, and the one before.
const IDLE_PACKAGES_MAX: usize = 4;

/// The numbers that were given.
#[derive(Debug, Default)]
pub(crate) struct InstanceIds {
    /// The one that was used last is the last.
    packages: Vec<PackageIds>,
    next: u32,
}

#[derive(Debug)]
struct PackageIds {
    model: String,
    package: Digest,
    latest: u32,
    /// By the digest of the identity.
    ids: HashMap<Digest, InstanceId>,
}

impl InstanceIds {
    /// Learns a number that was given earlier; of two for one identity the later one counts.
    pub(crate) fn learn(&mut self, id: InstanceId, identity: &InstanceIdentity, digest: Digest) {
        self.next = self.next.max(id.0.saturating_add(1));
        let package = self.package_mut(&identity.model, identity.package);
        package.latest = package.latest.max(id.0);
        let known = package.ids.entry(digest).or_insert(id);
        *known = (*known).max(id);
    }

    /// Returns the number of an instance, if it has one.
    pub(crate) fn find(&mut self, identity: &InstanceIdentity, digest: &Digest) -> Option<InstanceId> {
        self.package_mut(&identity.model, identity.package).ids.get(digest).copied()
    }

    /// Gives a number to a new instance.
    pub(crate) fn give(&mut self, identity: &InstanceIdentity, digest: Digest) -> InstanceId {
        let id = InstanceId(self.next);
        self.learn(id, identity, digest);
        id
    }

    /// Forgets packages that do not run, all but the latest few of each model.
    pub(crate) fn forget_idle(&mut self, runs: impl Fn(&str, Digest) -> bool) {
        let mut idle: HashMap<String, usize> = HashMap::new();
        let mut kept = Vec::new();
        while let Some(package) = self.packages.pop() {
            if !runs(&package.model, package.package) {
                let count = idle.entry(package.model.clone()).or_default();
                *count += 1;
                if *count > IDLE_PACKAGES_MAX {
                    continue;
                }
            }
            kept.push(package);
        }
        kept.reverse();
        self.packages = kept;
    }

    /// Puts the packages in the order of their latest numbers.
    pub(crate) fn order_by_age(&mut self) {
        self.packages.sort_by_key(|package| package.latest);
    }

    /// Makes a package the one that was used last.
    pub(crate) fn touch(&mut self, model: &str, package: Digest) {
        if let Some(position) =
            self.packages.iter().position(|known| known.package == package && known.model == model)
        {
            let package = self.packages.remove(position);
            self.packages.push(package);
        }
    }

    fn package_mut(&mut self, model: &str, package: Digest) -> &mut PackageIds {
        let known = self.packages.iter().rposition(|known| known.package == package && known.model == model);
        let position = known.unwrap_or_else(|| {
            let ids = PackageIds { model: model.to_owned(), package, latest: 0, ids: HashMap::new() };
            self.packages.push(ids);
            self.packages.len() - 1
        });
        &mut self.packages[position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::instance_digest;

    fn identity(package: u32, key: u32) -> InstanceIdentity {
        InstanceIdentity {
            model: "m".into(),
            version: "1".into(),
            package: Digest::of(&package.to_le_bytes()),
            key: vec![("id".into(), key.to_string())],
            outputs: vec![],
            labels: vec![],
        }
    }

    #[test]
    fn a_package_that_comes_back_has_its_numbers_and_ever_new_ones_leave_few_behind() {
        let mut ids = InstanceIds::default();
        let give = |ids: &mut InstanceIds, package| {
            let identity = identity(package, 0);
            let digest = instance_digest(&identity);
            ids.find(&identity, &digest).unwrap_or_else(|| ids.give(&identity, digest))
        };
        let first = give(&mut ids, 0);
        for package in 1..1_000 {
            give(&mut ids, package);
            ids.touch("m", identity(0, 0).package);
            ids.forget_idle(|_, _| false);
            assert_eq!(give(&mut ids, 0), first);
            assert!(ids.packages.len() <= IDLE_PACKAGES_MAX + 1);
        }
    }

    #[test]
    fn no_number_is_given_twice_even_where_its_package_was_forgotten() {
        let mut ids = InstanceIds::default();
        let mut given = std::collections::HashSet::new();
        for package in 0..100 {
            let identity = identity(package, 1);
            assert!(given.insert(ids.give(&identity, instance_digest(&identity))));
            ids.forget_idle(|_, _| false);
        }
    }
}
