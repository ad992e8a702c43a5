"""A small exchange: accounts, order books and prices, each a service of its own."""
