"""No public signature has a bare Any without a reason, and no docstring a first line that is too long."""

import ast
from pathlib import Path

import modiste

ROOT = Path(modiste.__file__).parent
# Why a signature may say Any → functions, as module:function.
REASONS = {
    "what YAML or JSON holds": """
        search.opened:is_complete utils.plain_yaml:load
        config.building:instantiate config.schema:plain config.stored:read_plain config.tree:value_at
        data.download:read_json utils.run_dir:read_json reporting.tables.results:without_paths
        search.build:plain
    """,
    "a class, a function or an annotation": """
        config.building:signature_problems config.schema:fits config.schema:describe config.targets:locate
    """,
    "cells of a column: text, or the numbers of rows": """
        data.catalogue:Catalogue.column data.datasets.table:plain data.shop:references
        reporting.html.gallery:Images.column reporting.tables.names:number
    """,
    "any of several classes with the attributes that its docstring names": """
        models.dual_encoder:TwoTower.__init__ search.query:several serve.batching:Batcher.submit
        losses.base:ContrastiveLoss.__call__ terms.patches:PatchTerm.take
    """,
    "objects of timm, open_clip, peft, transformers and sentence-transformers, which have no types": """
        images.timm:hook_trunk images.timm:resize_trunk images.timm:stage_channels models.finetune:without_adapter
        pretrained.openclip:OpenClipTokenizer.__init__
        pretrained.sentence_transformers:SentenceTokenizer.__init__
        pretrained.sentence_transformers:image_preprocess pretrained.sentence_transformers:on_pil
        pretrained.transformers:CheckpointTokenizer.__init__ pretrained.transformers:preprocess_of
        pretrained.remote.image_processing_modiste:ModisteImageProcessor.preprocess
        pretrained.remote.processing_modiste:ModisteProcessor.__init__
        pretrained.remote.processing_modiste:ModisteProcessor.__call__ texts.hf:drop_code texts.hf:HfTokenizer.__init__
        texts.hf:text_model texts.hf:model_class texts.hf:refuse_kernels
    """,
    "clients of LanceDB and Qdrant, optional packages": """
        search.engines.lancedb:LanceStore.database search.engines.lancedb:LanceStore.table
        search.engines.qdrant:QdrantStore.client
    """,
    "keys of a configuration, which composition checks": """
        evaluation.api:evaluate
    """,
    "further arguments of a function or class that the docstring names, which checks them": """
        export.__init__:export losses.base:LogitBias.__init__ losses.base:LogitScale.__init__
        losses.matryoshka:MatryoshkaLoss.forward metrics.classification:ClassificationMetrics.__init__
        metrics.retrieval:RankingMetrics.__init__ metrics.retrieval:RetrievalMetrics.__init__
        data.datasets.table:load_files data.samplers:ResumableLoader.__init__ search.build:Source.of_index
        search.build:Source.of_model training.data:build_data
    """,
    "variables of a template": """
        reporting.html.page:write_page reporting.markdown:render
    """,
    "the signature is Hydra's, transformers', huggingface_hub's, starlette's or that of fashion-clip": """
        compat.fashion_clip:FCLIPDataset.display_products pretrained.exported:HubModel.__init__
        pretrained.remote.configuration_modiste:ModisteConfig.__init__
        pretrained.remote.image_processing_modiste:ModisteImageProcessor.__init__
        pretrained.remote.modeling_modiste:ModisteModel.forward
        pretrained.remote.modeling_modiste:ModisteModel.get_image_features
        pretrained.remote.modeling_modiste:ModisteModel.get_text_features
        reporting.multirun:GridTable.on_multirun_end serve.app:Assets.file_response
    """,
    "the signature is Lightning's": """
        training.callbacks.checkpoints:RecentCheckpoint.on_train_batch_end
        training.callbacks.checkpoints:CheckpointFiles.save_checkpoint
        training.callbacks.cost:Throughput.on_train_batch_end training.callbacks.cost:Cost.on_train_batch_end
        training.callbacks.interruption:Interruptible.on_train_batch_end
        training.callbacks.progress:LineProgress.on_train_batch_end
        training.callbacks.progress:EpochLines.on_train_batch_end
        training.module:ContrastiveModule.configure_optimizers training.module:ContrastiveModule.optimizer_step
    """,
}
BARE = {"Any", "Any | None", *(f"{kind}[Any]" for kind in ("list", "Sequence", "Iterable", "Iterator"))}


def signatures(node, prefix=""):
    """(name, annotations) of every public function of a module or class, constructors and calls included."""
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "")
        private = name.startswith("_") and name not in ("__init__", "__call__")
        if isinstance(child, ast.ClassDef) and not private:
            yield from signatures(child, f"{prefix}{name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not private:
            given = child.args.posonlyargs + child.args.args + child.args.kwonlyargs
            given += [several for several in (child.args.vararg, child.args.kwarg) if several]
            notes = [*(argument.annotation for argument in given), child.returns]
            yield prefix + name, {ast.unparse(note) for note in notes if note is not None}


def test_every_any_in_a_public_signature_has_its_reason():
    found = set()
    for file in ROOT.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for name, notes in signatures(ast.parse(file.read_text(encoding="utf-8"))):
            if notes & BARE:
                found.add(f"{module}:{name}")
    allowed = {name for names in REASONS.values() for name in names.split()}
    assert found - allowed == set(), "say the type, or why it is any"
    assert allowed - found == set(), "these have a type now"


def test_the_first_line_of_a_docstring_has_at_most_100_characters():
    """Where an editor or an index shows it alone, it is cut there."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    longer = [
        f"{file.relative_to(ROOT)}: {line}"
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and len(line := (ast.get_docstring(node) or "").partition("\n")[0]) > 100
    ]
    assert not longer


def test_the_signatures_are_read_to_the_last_argument():
    source = "class A:\n def f(self, a: int, *, b: Any = 1) -> list[Any]: ...\n def _g(self, a: Any): ...\n"
    source += "def h(a: str, *b: bool, **c: float): ..."
    assert dict(signatures(ast.parse(source))) == {"A.f": {"int", "Any", "list[Any]"}, "h": {"str", "bool", "float"}}
