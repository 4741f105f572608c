# Terraform: the table of the store `dynamodb://idem`.
resource "aws_dynamodb_table" "idempotency_records" {
  name         = "idem"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "id"

  attribute {
    name = "id"
    type = "B"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  # Leave both out where nobody looks for records that are running, crashed or suspended: the index costs
  # two write units for each first call. It can be added later.
  attribute {
    name = "unfinished"
    type = "B"
  }

  global_secondary_index {
    name            = "unfinished"
    hash_key        = "unfinished"
    projection_type = "KEYS_ONLY"
  }

  lifecycle {
    prevent_destroy = true
  }
}
