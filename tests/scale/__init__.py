"""Sizes that the kit must bear: some hundred records, some hundred thousand documents, a document of megabytes."""
