"""What a network calls: layers, interaction, loss, and the updates of dense parameters."""
