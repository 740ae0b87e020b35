"""The report's page: sections of text, tables and figures, rendered as HTML and as Markdown."""
