"""The commands of ``raise-mdit``, by what they are about; each module registers its own."""
