"""Published weights, read and checked: other libraries' configurations and names, and ours."""
