"""Write the results of a validation: tables, charts, pages."""
