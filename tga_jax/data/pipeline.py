"""Records to batches, through Grain."""

import grain

from tga_jax.data.batch import Batch
from tga_jax.data.tokens import Shape, Vocabulary, collate, encode


def batches(
    records: grain.MapDataset, vocabulary: Vocabulary, shape: Shape, batch_size: int
) -> grain.IterDataset[Batch]:
    """Batches of an endless, already shuffled dataset of records. The iterator's state resumes it exactly."""
    return (
        records.map(lambda record: encode(record, vocabulary, shape))
        .batch(batch_size, batch_fn=collate)
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    )


def endless(source, seed: int) -> grain.MapDataset:
    """Every element of a random-access source once per epoch, in an order of the seed's, for ever."""
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()
