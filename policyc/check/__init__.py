"""From syntax trees to the checked policy: names resolved, values read, meaning checked."""
