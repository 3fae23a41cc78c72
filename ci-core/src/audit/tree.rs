//! The Merkle tree over the entries of a chain (RFC 6962, section 2.1): what a checkpoint signs.

use sha2::{Digest as _, Sha256};

type Hash = [u8; 32];

/// A tree that grows, of which only the roots of its full subtrees are kept: at most 64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    size: u64,
    /// From the largest to the smallest: one for every one in `size`.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree with these subtrees, if there is one.
    pub(super) fn of(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (u32::try_from(peaks.len()).ok()? == size.count_ones()).then_some(Self { size, peaks })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    pub(super) fn push(&mut self, leaf: &[u8]) {
        let mut hash = hash(&[&[0], leaf]);
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("there is a subtree for every one in the size");
            hash = node(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    pub(super) fn root(&self) -> Hash {
        let smallest_first = self.peaks.iter().rev().copied();
        smallest_first.reduce(|right, left| node(&left, &right)).unwrap_or_else(|| hash(&[]))
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

fn hash(parts: &[&[u8]]) -> Hash {
    parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves and roots that implementations of Certificate Transparency test themselves with.
    #[test]
    fn its_root_is_that_of_the_standard() {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        for (index, root) in roots.iter().enumerate() {
            assert_eq!(data_encoding::HEXLOWER.encode(&tree.root()), *root, "{index} leaves");
            assert_eq!(Tree::of(tree.size(), tree.peaks().to_vec()), Some(tree.clone()));
            if let Some(leaf) = leaves.get(index) {
                tree.push(&data_encoding::HEXLOWER.decode(leaf.as_bytes()).expect("hexadecimal digits"));
            }
        }
        assert_eq!(Tree::of(3, vec![[0; 32]]), None);
    }
}
