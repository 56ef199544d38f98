"""What is written of a validation: tables, charts, pages."""
