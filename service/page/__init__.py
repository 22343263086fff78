"""The page at `/`, and `/system`, the JSON that it draws: tasks as paths over shared components."""
