"""Top-GAP workbook: the package that the notebooks call.

The public names below are imported on first use, so that ``topgap --help`` answers at once.
"""

from importlib import import_module

_HOMES = {
    "topgap_nb.errors": ["UserError"],
    "topgap_nb.data": ["DATASETS", "open_dataset"],
    "topgap_nb.data.images": ["ImageSet", "as_float"],
    "topgap_nb.data.decode": ["LazyImages"],
    "topgap_nb.data.imagenet_c": ["mean_corruption_error"],
    "topgap_nb.data.pneumonia": ["shared_patients"],
    "topgap_nb.data.folder": ["class_balance", "folder_notes", "write_folder"],
    "topgap_nb.method.pooling": ["TopKPool2d", "pixel_constraint", "top_k_pool"],
    "topgap_nb.method.loss": ["LossTerms", "sparsity_loss", "top_gap_loss"],
    "topgap_nb.method.model": ["StandardNet", "TopGapNet", "build_model", "explanation_map"],
    "topgap_nb.data.shifts": ["CORRUPTIONS", "corrupted", "replace_background"],
    "topgap_nb.measures.attacks": ["attack", "attack_distance", "pgd", "worst_case"],
    "topgap_nb.measures.masking": ["MaskingReport", "masking_report"],
    "topgap_nb.measures.constraint": [
        "Choice", "evidence_share", "k_from_masks", "k_on_select", "k_per_image",
    ],
    "topgap_nb.measures.cam": ["grad_cam", "own_cam", "recipro_cam"],
    "topgap_nb.measures.erf": [
        "corner_and_centre", "erf_distance", "erf_map", "erf_value", "object_share", "output_maps",
    ],
    "topgap_nb.measures.limits": ["cannot_conclude"],
    "topgap_nb.measures.shortcuts": [
        "blanked", "blanked_hits", "commonest_share", "judgeable", "suspicion",
    ],
    "topgap_nb.measures.size_prior": ["suggested_k"],
    "topgap_nb.measures.scores": [
        "Estimate", "bootstrap", "cam_sparsity", "clean_accuracy", "correct", "group_accuracy",
        "highlighted_area", "mask_iou", "paired", "predict", "proportion", "pxap",
        "shared_threshold",
    ],
    "topgap_nb.experiments.spec": ["RunSpec"],
    "topgap_nb.experiments.recipes": ["baseline", "recipe"],
    "topgap_nb.experiments.grid": ["grid_of", "run_grid"],
    "topgap_nb.experiments.training": [
        "Trained", "fold_of", "history_table", "run_sets", "trained", "untrained",
    ],
    "topgap_nb.experiments.export": ["USAGE", "Saved", "export_onnx", "load_model", "save_model"],
    "topgap_nb.experiments.remembered": ["remembered"],
    "topgap_nb.experiments.records": ["Record", "Verdict", "load_records"],
    "topgap_nb.workbook.book": ["Book"],
    "topgap_nb.workbook.tables": [
        "ARCHITECTURES", "paper_table", "readable", "save_table", "shown",
    ],
    "topgap_nb.workbook.figures": [
        "PALETTE", "draw_architecture", "map_grid", "show_image", "show_map", "show_outline",
    ],
    "topgap_nb.workbook.exercises": ["check"],
    "topgap_nb.workbook.report": ["HOW_TO_READ", "Code", "write_report"],
    "topgap_nb.workbook.sheets": ["blank_sheet", "decision_sheet", "erf_sheet", "image_sheet"],
    "topgap_nb.workbook.widgets": [
        "attack_explorer", "field_explorer", "k_explorer", "planted_explorer",
    ],
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'topgap_nb' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
