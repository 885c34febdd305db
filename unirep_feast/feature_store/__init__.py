"""The Feast side: the only place that imports feast.

``views`` turns a spec into Feast objects for ``feature_repo/*.py``, ``torch_data`` is what reads
vectors back as tensors: ``historical_reading`` (``snapshot_lookup`` and ``vector_files`` where the
files are ours), ``online_reading``, ``torch_datasets``, ``torch_streams`` and ``torch_columns``;
``columns`` decodes, ``entity_rows`` checks what a caller asks for. ``source_events`` reads an event
log that a Feast repo declares, ``online_writer`` fills an online store. ``engine`` is what
``batch_engine:`` names: ``materializing`` encodes a view and writes it with ``offline_writer`` and
``online_writer``, fed by ``snapshot_rows``. Import what you need by module:

    from unirep_feast.feature_store.views import representation
    from unirep_feast.feature_store.torch_data import online_user_vectors, user_vectors
"""
