//! The safety gate: what a model file must not be. It comes before any runtime sees the bytes.
//!
//! Runtimes trust counts, follow paths to other files and allocate what a shape says. The gate looks everywhere where a
//! tensor or a graph may hide (initializers, sparse ones, attributes, subgraphs, functions, training graphs), stores
//! nothing but what is external, and stops at the first thing that no real detector has.

use super::gate_tensor::{Product, tensor_facts};
use super::onnx::OnnxError;
use super::protobuf::{Fields, Slice, Value};

/// One model, with what it takes from other files, is at most this long: an edge box has few GiB.
pub(super) const MAX_FILE: u64 = 1 << 30;
/// Graphs inside of graphs (`If`, `Loop`): real exports stay below five.
const MAX_DEPTH: u32 = 16;
/// Nodes of all graphs together: real detectors stay below five thousand.
const MAX_NODES: usize = 100_000;
/// Tensors of all graphs together.
const MAX_TENSORS: usize = 100_000;
/// Fields that are looked at: it bounds the time, and what names and attributes cost a runtime.
pub(super) const MAX_FIELDS: usize = 8_000_000;

/// What the manifest allows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy<'a> {
    /// Data of tensors may lie in other files of the model's folder.
    pub(super) external_data: bool,
    /// Operator domains besides ONNX' own.
    pub(super) domains: &'a [String],
}

/// Why the gate refuses a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Damaged, or more of something than any real model has.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Weights in other files, which the manifest does not allow.
    #[error(
        "the data of tensor `{tensor}` lies in another file. Save the model in one file with \
         onnx.save(model, path, save_as_external_data=False), or write `allow_external_data: true` into a model.yaml \
         beside it"
    )]
    External {
        /// The first such tensor.
        tensor: String,
    },
    /// Data in another file that cannot be taken.
    #[error("the data of tensor `{tensor}` in `{location}`: {reason}")]
    Reference {
        /// Which tensor.
        tensor: String,
        /// What the file calls the other file.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An operator that ONNX does not define.
    #[error(
        "operator `{op}` is of the domain `{domain}`, which needs code that is not ONNX' own; export the model without it, \
         or write `allow_domains: [{domain}]` into a model.yaml beside it"
    )]
    Domain {
        /// The operator.
        op: String,
        /// Its domain.
        domain: String,
    },
    /// A shape that no tensor of a detector has, or that its data does not fill.
    #[error("tensor `{tensor}` {reason}")]
    Tensor {
        /// Which tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl GateError {
    /// One word for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Onnx(OnnxError::Damaged { .. }) => "damaged",
            Self::Onnx(OnnxError::Missing(_)) => "no_model",
            Self::Onnx(OnnxError::Limit { .. }) => "limit",
            Self::External { .. } => "external_data",
            Self::Reference { .. } => "external_reference",
            Self::Domain { .. } => "domain",
            Self::Tensor { .. } => "tensor",
        }
    }
}

/// Looks at the whole file, and gives how many tensors have their data elsewhere.
pub(super) fn inspect(bytes: &[u8], policy: Policy<'_>) -> Result<usize, GateError> {
    let mut walk = Walk { policy, functions: Vec::new(), nodes: 0, tensors: 0, fields: 0, external: 0 };
    let mut model = Fields::new(bytes, 0);
    while let Some((field, value)) = model.next()? {
        if let (25, Value::Bytes(function)) = (field, value) {
            walk.list_function(function)?;
        }
    }
    let mut model = Fields::new(bytes, 0);
    while let Some((field, value)) = walk.next(&mut model)? {
        match (field, value) {
            (7, Value::Bytes(graph)) => walk.graph(graph, 0)?,
            // TrainingInfoProto {initialization = 1, algorithm = 2}
            (20, Value::Bytes(training)) => walk.parts(training, &[1, 2], Walk::graph, 1)?,
            // FunctionProto {node = 7}
            (25, Value::Bytes(function)) => walk.parts(function, &[7], Walk::node, 1)?,
            _ => {}
        }
    }
    Ok(walk.external)
}

struct Walk<'p> {
    policy: Policy<'p>,
    /// Domains of the model's own functions: their bodies are in the file.
    functions: Vec<String>,
    nodes: usize,
    tensors: usize,
    fields: usize,
    external: usize,
}

type Visit<'p> = fn(&mut Walk<'p>, Slice<'_>, u32) -> Result<(), GateError>;

pub(super) fn limit(what: &'static str, limit: usize) -> GateError {
    GateError::Onnx(OnnxError::Limit { what, limit })
}

impl<'p> Walk<'p> {
    fn next<'a>(&mut self, fields: &mut Fields<'a>) -> Result<Option<(u32, Value<'a>)>, GateError> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(limit("fields", MAX_FIELDS));
        }
        Ok(fields.next()?)
    }

    /// FunctionProto {domain = 10}
    fn list_function(&mut self, function: Slice<'_>) -> Result<(), GateError> {
        if self.functions.len() >= 1000 {
            return Err(limit("functions", 1000));
        }
        let mut fields = function.fields();
        while let Some((field, value)) = fields.next()? {
            if let (10, Value::Bytes(domain)) = (field, value) {
                self.functions.push(domain.text());
            }
        }
        Ok(())
    }

    /// Visits each field of `body` that `wanted` lists.
    fn parts(&mut self, body: Slice<'_>, wanted: &[u32], visit: Visit<'p>, depth: u32) -> Result<(), GateError> {
        let mut fields = body.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            if let Value::Bytes(part) = value
                && wanted.contains(&field)
            {
                visit(self, part, depth)?;
            }
        }
        Ok(())
    }

    /// GraphProto {node = 1, initializer = 5, input = 11, output = 12, value_info = 13, sparse_initializer = 15}
    fn graph(&mut self, graph: Slice<'_>, depth: u32) -> Result<(), GateError> {
        if depth >= MAX_DEPTH {
            return Err(limit("levels of nested graphs", MAX_DEPTH as usize));
        }
        let mut fields = graph.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (field, value) {
                (1, Value::Bytes(node)) => self.node(node, depth)?,
                (5, Value::Bytes(tensor)) => self.tensor(tensor, depth)?,
                (11..=13, Value::Bytes(port)) => self.port(port)?,
                (15, Value::Bytes(sparse)) => self.sparse(sparse, depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// NodeProto {op_type = 4, attribute = 5, domain = 7}
    fn node(&mut self, node: Slice<'_>, depth: u32) -> Result<(), GateError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(limit("nodes", MAX_NODES));
        }
        let (mut op, mut domain) = (None, None);
        let mut fields = node.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (field, value) {
                (4, Value::Bytes(name)) => op = Some(name),
                (5, Value::Bytes(attribute)) => self.attribute(attribute, depth)?,
                (7, Value::Bytes(name)) => domain = Some(name),
                _ => {}
            }
        }
        let Some(domain) = domain.map(Slice::text) else { return Ok(()) };
        let own = matches!(domain.as_str(), "" | "ai.onnx" | "ai.onnx.ml");
        if own || self.functions.contains(&domain) || self.policy.domains.contains(&domain) {
            return Ok(());
        }
        Err(GateError::Domain { op: op.map(Slice::text).unwrap_or_default(), domain })
    }

    /// AttributeProto {t = 5, g = 6, tensors = 10, graphs = 11, sparse_tensor = 22, sparse_tensors = 23}
    fn attribute(&mut self, attribute: Slice<'_>, depth: u32) -> Result<(), GateError> {
        let mut fields = attribute.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (field, value) {
                (5 | 10, Value::Bytes(tensor)) => self.tensor(tensor, depth)?,
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(sparse)) => self.sparse(sparse, depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// SparseTensorProto {values = 1, indices = 2, dims = 3}
    fn sparse(&mut self, sparse: Slice<'_>, depth: u32) -> Result<(), GateError> {
        let mut dims = Product::default();
        let mut fields = sparse.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (field, value) {
                (1 | 2, Value::Bytes(tensor)) => self.tensor(tensor, depth)?,
                (3, value) => dims.field(&value)?,
                _ => {}
            }
        }
        dims.check("of a sparse initializer").map(|_| ())
    }

    fn tensor(&mut self, tensor: Slice<'_>, _depth: u32) -> Result<(), GateError> {
        self.tensors += 1;
        if self.tensors > MAX_TENSORS {
            return Err(limit("tensors", MAX_TENSORS));
        }
        let before = self.fields;
        let facts = tensor_facts(tensor, MAX_FIELDS.saturating_sub(before))?;
        self.fields = before + facts.fields;
        if facts.is_external() {
            self.external += 1;
            if !self.policy.external_data {
                return Err(GateError::External { tensor: facts.name() });
            }
        }
        facts.check()
    }

    /// ValueInfoProto {name = 1, type = 2 {tensor_type = 1 {shape = 2 {dim = 1 {dim_value = 1}}}}}
    fn port(&mut self, port: Slice<'_>) -> Result<(), GateError> {
        let mut product = Product::default();
        let mut name = None;
        let mut fields = port.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (field, value) {
                (1, Value::Bytes(text)) => name = Some(text),
                (2, Value::Bytes(kind)) => self.shape(kind, &[1, 2, 1, 1], &mut product)?,
                _ => {}
            }
        }
        product.check(&name.map(Slice::text).unwrap_or_default()).map(|_| ())
    }

    /// Follows `path` down to the numbers of a shape.
    fn shape(&mut self, body: Slice<'_>, path: &[u32], product: &mut Product) -> Result<(), GateError> {
        let Some((wanted, rest)) = path.split_first() else { return Ok(()) };
        let mut fields = body.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match value {
                // Zero and negative lengths are how some exporters say "unknown".
                Value::Varint(n) if field == *wanted && n > 0 && i64::try_from(n).is_ok() => product.times(n)?,
                Value::Bytes(part) if field == *wanted => self.shape(part, rest, product)?,
                _ => {}
            }
        }
        Ok(())
    }
}
