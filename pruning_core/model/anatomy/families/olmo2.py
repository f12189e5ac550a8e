"""OLMo 2: the query and key norms span the whole projection and shrink with it."""

from pruning_core.model.anatomy.family import AttentionNames, Family, NormSpan

FAMILY = Family(
    name="OLMo 2",
    model_types=("olmo2",),
    attention=AttentionNames(query_norm="q_norm", key_norm="k_norm", norm_span=NormSpan.WIDTH),
)
