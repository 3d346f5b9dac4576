//! Real gradient lists: the parameters of well-known models, by name and shape.
//!
//! The lists are compact text files in `benches/models`, one `name shape` a line, in the order in
//! which the model registers its parameters.

use anyhow::{Context, Result};

/// A model whose gradient list can be benchmarked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// 161 tensors, 25.6 million elements.
    #[value(name = "resnet50")]
    ResNet50,
    /// 199 tensors, 109.5 million elements.
    #[value(name = "bert-base")]
    BertBase,
    /// 148 tensors, 124.4 million elements.
    #[value(name = "gpt2")]
    Gpt2,
}

/// One parameter, and so one gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the model.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
}

impl Parameter {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Model {
    /// The name on the command line and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet50 => "resnet50",
            Self::BertBase => "bert-base",
            Self::Gpt2 => "gpt2",
        }
    }

    /// Its parameters in registration order.
    ///
    /// # Panics
    /// Never: the lists are compiled in and parsed by a test.
    #[must_use]
    pub fn parameters(self) -> Vec<Parameter> {
        let text = match self {
            Self::ResNet50 => include_str!("../../../benches/models/resnet50.txt"),
            Self::BertBase => include_str!("../../../benches/models/bert-base.txt"),
            Self::Gpt2 => include_str!("../../../benches/models/gpt2.txt"),
        };
        parse(text).expect("the compiled-in lists are well formed")
    }
}

fn parse(text: &str) -> Result<Vec<Parameter>> {
    text.lines()
        .map(|line| {
            let (name, shape) =
                line.split_once(' ').with_context(|| format!("`{line}` has no shape"))?;
            let shape = shape
                .split('x')
                .map(|n| n.parse().with_context(|| format!("`{n}` in `{line}` is no length")))
                .collect::<Result<_>>()?;
            Ok(Parameter { name: name.into(), shape })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_have_the_published_sizes() {
        for (model, tensors, elements) in [
            (Model::ResNet50, 161, 25_557_032),
            (Model::BertBase, 199, 109_482_240),
            (Model::Gpt2, 148, 124_439_808),
        ] {
            let list = model.parameters();
            assert_eq!(list.len(), tensors, "{}", model.name());
            assert_eq!(list.iter().map(Parameter::elements).sum::<u64>(), elements);
        }
        assert_eq!(
            Model::ResNet50.parameters()[0],
            Parameter { name: "conv1.weight".into(), shape: vec![64, 3, 7, 7] }
        );
    }

    #[test]
    fn a_malformed_line_is_named() {
        assert!(parse("weight").unwrap_err().to_string().contains("weight"));
        assert!(parse("weight 3xq").unwrap_err().to_string().contains("`q`"));
    }
}
