from atelier_client.cli import app

app(prog_name="atelier")
