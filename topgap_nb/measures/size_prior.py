"""How large are the objects? A share of the image for k, with its evidence in a sentence."""

from topgap_nb.data.images import ImageSet
from topgap_nb.measures.constraint import k_from_masks

# Our choice, for objects of middling size.
DEFAULT_SHARE = 0.2


def suggested_k(train: ImageSet) -> tuple[float, str]:
    """Return (k as a share of the class map, why in a sentence).

    With masks, k is the objects' mean share of the image: a map that highlights the object and
    nothing else has that share of large values. Without any, it is a default.
    """
    if train.masks is None or not train.masks.any():
        why = f"k is {DEFAULT_SHARE:.0%} of the class map, a default: no training image has a mask."
        return DEFAULT_SHARE, why
    masks = train.with_masks().masks
    share = k_from_masks(masks)
    why = f"k is {share:.1%} of the class map, the objects' mean share in {len(masks)} masks."
    return round(share, 4), why
