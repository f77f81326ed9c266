"""One package for each HTTP dialect: schema, translation, routes. Dialects never import each other."""
